"""A folder of recordings with transcripts: beside each, in LibriSpeech's ``*.trans.txt``, or in ``metadata.csv``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

from fastadasp.errors import DataError
from fastadasp.files import SOUNDS, convert_hint, recordings_in
from fastadasp.tasks.sources import table
from fastadasp.tasks.sources.manifest import read_text
from fastadasp.tasks.sources.row import Row


def rows(path: Path) -> Iterator[Row | DataError]:
    """The recordings of a folder and those inside it, by path; a recording without a transcript has an empty one.

    ``folder`` is the name of the folder inside it that a recording lies in.

    Raises:
        DataError: it holds no recordings.
    """
    listed = path / "metadata.csv"
    if listed.is_file():
        yield from table.rows(listed)
        return
    sounds, unheard = recordings_in(path, deep=True)
    if not sounds:
        hint = f"; {convert_hint(unheard)}" if unheard else ""
        raise DataError(f"{path} holds no recordings ({', '.join(SOUNDS)}){hint}")
    if unheard:
        warnings.warn(f"{path}: left out: {convert_hint(unheard)}", stacklevel=2)
    spoken = _librispeech(path)
    for number, file in enumerate(sounds, 1):
        beside = file.with_suffix(".txt")
        text = read_text(beside).strip() if beside.is_file() else spoken.get((file.parent, file.stem), "")
        name = file.relative_to(path)
        values = {"audio_filepath": str(name), "reference": text, "id": name.with_suffix("").as_posix()}
        if name.parent.name:
            values["folder"] = name.parent.name
        yield Row(values, path, number, str(file))


def _librispeech(path: Path) -> dict[tuple[Path, str], str]:
    """Transcripts from ``*.trans.txt``, by the folder and the recording's name without its ending."""
    found = {}
    for listing in path.rglob("*.trans.txt"):
        for line in read_text(listing).split("\n"):
            name, _, text = line.strip().partition(" ")
            found[listing.parent, name] = text.strip()
    return found
