"""Tasks over spoken numbers that are joined when they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastadasp.demo import numbers
from fastadasp.errors import DataError
from fastadasp.tasks.manifest import ManifestTask
from fastadasp.tasks.sources import Row

NUMBER_TOKENS = 28
"""Most tokens of a number that is answered: the longest right answer has 20 words of one token each, and its end. Some
strategies make the model repeat itself without end, and with far more room one such clip would outweigh all others."""


class NumbersTask(ManifestTask):
    """Transcribes (``asr``) or translates (``st``) joined digits.

    Args:
        name: begins with ``asr`` or ``st``, which decides the words of the references.
        folder: of the single digits, see `fastadasp.demo.numbers`.
        kind: how the clips are spoilt.
        instruction: what the model is asked.
        summary: one line for listings.
        usual: see `Task.usual`.
    """

    def __init__(self, name: str, folder: Path, kind: numbers.Kind, instruction: str, summary: str, usual: int) -> None:
        self._language = name.partition("-")[0]
        super().__init__(
            name,
            folder,
            kind="dense",
            metric="wer" if self._language == "asr" else "bleu",
            instruction=instruction,
            max_new_tokens=NUMBER_TOKENS,
            summary=summary,
            parts="part",
            usual=usual,
        )
        self._folder, self._kind = folder, kind

    def _rows(self, limit: int | None = None) -> Iterator[Row | DataError]:
        if self.manifest != self._folder:  # asked over other clips
            yield from super()._rows(limit)
            return
        made = numbers.rows(self._folder, self._kind, self.part, self._language)
        for number, values in enumerate(made):
            yield Row({**values, "part": self.part}, self._folder, number, f"clip {values['id']}")
