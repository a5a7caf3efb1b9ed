"""A row of data, and which of its columns mean what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastadasp.errors import DataError, did_you_mean

_TEXTS = ("text", "sentence", "transcript", "transcription", "translation")
_LABELS = ("label", "emotion", "intent")

COLUMNS = {
    "audio": ("audio_filepath", "audio", "path", "file", "file_name", "filename", "wav"),
    "second": ("second_audio_filepath", "audio_filepath_2", "audio2", "second"),
    "reference": ("reference", *_TEXTS, *_LABELS, "answer"),
    "question": ("question", "instruction", "prompt"),
    "id": ("id", "utt_id", "utterance_id", "clip_id"),
}
"""What a column may be called; of several that are there the first counts."""

REFERENCES = {
    "words": COLUMNS["reference"],
    "translation": ("reference", *reversed(_TEXTS), *_LABELS, "answer"),
    "label": ("reference", *_LABELS, "answer", *_TEXTS),
}
"""The order for references, by what is wanted: a table may hold transcripts, translations and labels side by side."""

Names = Mapping[str, str | tuple[str, ...]]
"""By meaning: the column that a task names, or the names that a column may have for it."""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        values: its columns.
        folder: what relative paths of recordings start from.
        number: its line or place in the source, from 1 on; where a source has several parts, with the part's name.
        where: the place a person would look, e.g. ``clips.csv, line 3``.
        revision: the commit of the hub's dataset that it was read from; empty for other sources.
    """

    values: Mapping[str, Any]
    folder: Path
    number: int | str
    where: str
    revision: str = ""

    def find(self, meaning: str, named: Names) -> str | None:
        """The value of the column that means `meaning`; None if it is empty or not there.

        Args:
            named: columns that a task names itself, or looks for in an order of its own, by meaning.

        Raises:
            DataError: the column that a task names is not there.
        """
        given = named.get(meaning)
        if isinstance(given, str) and given not in self.values:
            guess = did_you_mean(given, self.values)
            raise DataError(f"{self.where}: there is no column {given!r}.{guess} It has: {self.listing}")
        for name in self.names(meaning, named):
            value = self.values.get(name)
            if value is not None and str(value) != "":
                return str(value)
        return None

    def need(self, meaning: str, named: Names) -> str:
        """The same. Raises DataError where it is missing: whether the column is, or only its value."""
        value = self.find(meaning, named)
        if value is not None:
            return value
        names = self.names(meaning, named)
        there = [name for name in names if name in self.values]
        if there:
            raise DataError(f"{self.where}: {there[0]!r} is empty")
        others = f" (or {', '.join(names[1:])})" if names[1:] else ""
        guess = next((found for name in names if (found := did_you_mean(name, map(str, self.values)))), "")
        raise DataError(
            f"{self.where}: {names[0]!r} is missing{others}; it has: {self.listing}{'.' if guess else ''}{guess}"
        )

    def names(self, meaning: str, named: Names) -> tuple[str, ...]:
        """What a column that means `meaning` may be called."""
        given = named.get(meaning, COLUMNS[meaning])
        return (given,) if isinstance(given, str) else given

    @property
    def listing(self) -> str:
        """The columns, for a message."""
        return ", ".join(map(str, self.values)) or "nothing"
