"""A run's folder: written line by line as cells finish, never over another run."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fastadasp.errors import RunError
from fastadasp.experiments.records import Cell, Prediction, Record, Run

RESULTS, PREDICTIONS, RUN = "results.jsonl", "predictions.jsonl", "run.json"


class RunFolder:
    """Creates the folder and its files.

    Raises:
        RunError: it cannot be written, or it already holds a run. Later also by every method, e.g. on a full disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._results: IO[str] = (path / RESULTS).open("x", encoding="utf-8")
            self._predictions: IO[str] = (path / PREDICTIONS).open("x", encoding="utf-8")
        except OSError as error:
            raise RunError(f"output folder {path} cannot be written: {error.strerror}") from None

    def add(self, cell: Cell, predictions: list[Prediction]) -> None:
        """Writes a finished cell; its predictions first, so that a cell with results has all of its predictions."""
        with told(self.path):
            _write(self._predictions, predictions)
            _write(self._results, [cell])

    def write_run(self, run: Run) -> None:
        """Writes ``run.json`` in one step."""
        self.write_text(RUN, json.dumps(run.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Writes one file in one step."""
        with told(self.path):
            write_whole(self.path / name, text)

    def close(self) -> None:
        with told(self.path):
            self._results.close()
            self._predictions.close()


def check_free(path: Path) -> None:
    """Says early, without writing, what would keep `RunFolder` from being made."""
    with told(path):
        taken = [name for name in (RESULTS, PREDICTIONS, RUN) if (path / name).exists()]
        existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if taken:
        raise RunError(f"output folder {path} already holds a run ({', '.join(taken)}); choose another folder")
    if not existing.is_dir():
        raise RunError(f"output folder {path} cannot be made: {existing} is a file")
    if not os.access(existing, os.W_OK):
        raise RunError(f"output folder {path} cannot be written: no permission in {existing}")


@contextmanager
def told(path: Path, what: str = "output folder") -> Iterator[None]:
    """Trouble with the disk, in one sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{what} {path} cannot be written: {error.strerror or error}") from None


def write_whole(path: Path, text: str, part: Path | None = None) -> None:
    """Writes a file in one step: whoever looks, and whatever dies, finds the old content or the new, never a piece.

    Args:
        part: where the text is put together, on the same file system; beside `path` if not given.
    """
    part = part or path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")  # others may write the same file
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _write(file: IO[str], records: list[Cell] | list[Prediction]) -> None:
    lines: list[Record] = list(records)
    file.write("".join(json.dumps(r.model_dump(mode="json"), ensure_ascii=False) + "\n" for r in lines))
    file.flush()
    os.fsync(file.fileno())
