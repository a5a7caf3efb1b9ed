"""The folder of a run, read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ValidationError

from fastadasp.errors import RunError
from fastadasp.experiments.export import CLOCK, STATISTICS, STUDY
from fastadasp.experiments.folder import PREDICTIONS, RESULTS, RUN
from fastadasp.experiments.records import Cell, Prediction, Run, Standing, StudyCell, StudyPrediction, StudyRun, Times
from fastadasp.version import installed_version

Parsed = TypeVar("Parsed", bound=BaseModel)


@dataclass(frozen=True)
class Source:
    """One run.

    Attributes:
        about: how it was made.
        cells: its cells, with the name of each by `key`.
        predictions: the answers, by the cell's key, in the order of the clips.
        standings: statistics of a study; a comparison has none.
        times: of a study, by cell.
        notes: what a reader should know, e.g. that the run was cut short.
    """

    folder: Path
    about: Run | StudyRun
    cells: list[Cell | StudyCell]
    predictions: dict[Any, list[Prediction]]
    standings: list[Standing] = field(default_factory=list)
    times: dict[str, Times] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def task_texts(self) -> list[str]:
        """The tasks as the command was given them."""
        arguments = self.about.arguments
        if isinstance(self.about, Run):
            return list(arguments.get("tasks", []))
        return list(arguments.get("axes", {}).get("tasks", []))

    @property
    def model(self) -> str | None:
        """Path or hub id of the model; None if it was the embedded one and the run does not say where that lay."""
        named = self.about.model if isinstance(self.about, Run) else self.about.arguments.get("model")
        return None if named is None else str(named)


def key(cell: Cell | StudyCell | Prediction) -> Any:
    """What tells a run's cells apart."""
    named = getattr(cell, "cell", None)
    return named if named is not None else (cell.strategy, cell.task, str(cell.budget), cell.seed)


def read_source(folder: Path) -> Source:
    """Reads a run.

    Raises:
        RunError: there is no run, it was written by a newer version, a file is damaged (which line), or no cell is
            finished.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise RunError(f"{folder} {what}; name the folder of a run, e.g. runs/20260101-120000")
    notes: list[str] = []
    study = (folder / STUDY).is_file()
    if not study and not (folder / RUN).is_file():
        raise RunError(f"{folder} is not the folder of a run: it has neither {RUN} nor {STUDY}")
    about: Run | StudyRun = _whole(folder / STUDY, StudyRun) if study else _whole(folder / RUN, Run)
    cells: list[Any] = _lines(folder / RESULTS, StudyCell if study else Cell, about, notes)
    answers: list[Any] = _lines(folder / PREDICTIONS, StudyPrediction if study else Prediction, about, notes, True)
    if not any(cell.error is None for cell in cells):
        failed = f"; {len(cells)} failed" if cells else ""
        raise RunError(f"{folder} has no finished cell yet{failed}")
    if about.status == "running":
        notes.append("it was still running, or was killed")
    elif about.status != "finished":
        notes.append({"failed": "some cells failed", "cancelled": "it was cancelled"}.get(about.status, about.status))
    predictions: dict[Any, list[Prediction]] = {}
    for answer in answers:
        predictions.setdefault(key(answer), []).append(answer)
    if not study:
        return Source(folder, about, cells, predictions, notes=notes)
    standings = _lines(folder / STATISTICS, Standing, about, notes, True)
    times = {time.cell: time for time in _lines(folder / CLOCK, Times, about, notes, True)}
    return Source(folder, about, cells, predictions, standings, times, notes)


def _whole(path: Path, kind: type[Parsed]) -> Parsed:
    return _parse(kind, _text(path), str(path), lambda: None)


def _lines(
    path: Path, kind: type[Parsed], about: Run | StudyRun, notes: list[str], optional: bool = False
) -> list[Parsed]:
    if not path.exists():
        if not optional:
            raise RunError(f"{path.parent} has no {path.name}")
        notes.append(f"{path.name} is missing")
        return []
    lines = _text(path).split("\n")
    if lines[-1]:  # whoever wrote it was stopped in the middle of a line
        notes.append(f"the last line of {path.name} is not complete and is left out")
    newer = _newer(about)
    out = []
    for number, line in enumerate(lines[:-1], 1):
        if line.strip():
            out.append(_parse(kind, line, f"{path}, line {number}", lambda: newer))
    return out


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RunError(f"{path} is damaged: it is not UTF-8 text") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None


def _parse(kind: type[Parsed], text: str, where: str, newer: Callable[[], str | None]) -> Parsed:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        version = newer() or _newer_text(text)
        if version is not None:
            raise RunError(
                f"{where} was written by fastadasp {version}, and this is {installed_version()}; update fastadasp"
            ) from None
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RunError(f"{where} is damaged: {place + ': ' if place else ''}{first['msg']}") from None


def _newer(about: Run | StudyRun) -> str | None:
    """The version that wrote a run, if it is newer than this one."""
    return _if_newer(about.versions.get("fastadasp"))


def _newer_text(text: str) -> str | None:
    """The same of a description whose keys are not known."""
    try:
        content = json.loads(text)
        return _if_newer(content["versions"]["fastadasp"])
    except (ValueError, TypeError, KeyError):
        return None


def _if_newer(version: str | None) -> str | None:
    try:
        return version if version and Version(version) > Version(installed_version()) else None
    except InvalidVersion:
        return None
