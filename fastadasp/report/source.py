"""The folder of a run, read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ValidationError

from fastadasp.errors import RunError
from fastadasp.experiments import old_format
from fastadasp.experiments.axes import Limit
from fastadasp.experiments.folder import CLOCK, PREDICTIONS, RESULTS, RUN, STATISTICS
from fastadasp.experiments.records import Cell, Prediction, Run, Standing, Times
from fastadasp.files import parse_json, read_text
from fastadasp.version import installed_version

Parsed = TypeVar("Parsed", bound=BaseModel)


Lift = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes a line of an earlier version one of today."""


@dataclass(frozen=True)
class Source:
    """One run.

    Attributes:
        about: how it was made.
        cells: its cells, with the name of each by `key`.
        predictions: the answers, by the cell's key, in the order of the clips.
        standings: what the run says of its cells; none if it did not come to its end.
        times: by cell.
        notes: what a reader should know, e.g. that the run was cut short.
    """

    folder: Path
    about: Run
    cells: list[Cell]
    predictions: dict[Any, list[Prediction]]
    standings: list[Standing] = field(default_factory=list)
    times: dict[str, Times] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def task_texts(self) -> list[str]:
        """The tasks as the command was given them."""
        arguments = self.about.arguments
        return list(arguments.get("tasks") or arguments.get("axes", {}).get("tasks", []))

    def asked(self, argument: str) -> str | None:
        """A word that the command was given, e.g. `prompt`; None if it was not."""
        given = self.about.arguments.get(argument)
        return given if isinstance(given, str) else None

    @property
    def limit(self) -> Limit:
        """Clips of each task, as the command was told."""
        given = self.about.arguments.get("limit")
        return given if isinstance(given, int) else "all" if given == "all" else None

    @property
    def model(self) -> str | None:
        """Path or hub id of the model; None if it was the embedded one and the run does not say where that lay."""
        return self.about.model or None

    @property
    def device_names(self) -> list[str]:
        """The processors or GPUs that its cells ran on."""
        names = dict.fromkeys(time.device_name for time in self.times.values() if time.device_name)
        return list(names) or [self.about.device_name]


def key(cell: Cell | Prediction) -> Any:
    """What tells a run's cells apart."""
    return cell.strategy, cell.task, tuple(cell.axes.items()), str(cell.budget), cell.seed


def read_source(folder: Path) -> Source:
    """Reads a run of this version or an earlier one.

    Raises:
        RunError: there is no run, it was written by a newer version, a file is damaged (which line), or no cell is
            finished.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise RunError(f"{folder} {what}; name the folder of a run, e.g. runs/20260101-120000")
    notes: list[str] = []
    old_study = (folder / old_format.STUDY).is_file()
    if not old_study and not (folder / RUN).is_file():
        raise RunError(f"{folder} is not the folder of a run: it has neither {RUN} nor {old_format.STUDY}")
    described = folder / (old_format.STUDY if old_study else RUN)
    text = _text(described)
    old = old_study or old_format.is_comparison(_values(text))
    describe: Lift | None = (lambda values: old_format.run_of(values, study=old_study)) if old else None
    about = _parse(Run, text, str(described), lambda: None, describe)
    single = old and not old_study  # a comparison of then
    cells = _lines(folder / RESULTS, Cell, about, notes, lift=old_format.cell_of if single else None)
    answers = _lines(
        folder / PREDICTIONS, Prediction, about, notes, optional=True, lift=old_format.prediction_of if single else None
    )
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
    if single:
        clock = _lines(
            folder / RESULTS, Times, about, [], lift=lambda values: old_format.times_of(values, about.device_name)
        )
        standings: list[Standing] = []
    else:
        clock = _lines(folder / CLOCK, Times, about, notes, optional=True)
        known = about.status != "running"  # they are written at the end
        standings = _lines(folder / STATISTICS, Standing, about, notes, optional=True) if known else []
    times = {time.cell: time for time in clock}
    return Source(folder, about, cells, predictions, standings, times, notes)


def _lines(
    path: Path,
    kind: type[Parsed],
    about: Run,
    notes: list[str],
    *,
    optional: bool = False,
    lift: Lift | None = None,
) -> list[Parsed]:
    if not path.exists():
        if not optional:
            unfinished = "; it was stopped before its first cell" if about.status == "running" else ""
            raise RunError(f"{path.parent} has no {path.name}{unfinished}")
        notes.append(f"{path.name} is missing")
        return []
    lines = _text(path).split("\n")
    if lines[-1]:  # whoever wrote it was stopped in the middle of a line
        notes.append(f"the last line of {path.name} is not complete and is left out")
    newer = _newer(about)
    out = []
    for number, line in enumerate(lines[:-1], 1):
        if line.strip():
            out.append(_parse(kind, line, f"{path}, line {number}", lambda: newer, lift))
    return out


def _values(text: str) -> dict[str, Any]:
    """JSON text as values; empty where it is something else, which whoever parses it says."""
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except UnicodeDecodeError:
        raise RunError(f"{path} is damaged: it is not UTF-8 text") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None


def _parse(
    kind: type[Parsed], text: str, where: str, newer: Callable[[], str | None], lift: Lift | None = None
) -> Parsed:
    try:
        values = _values(text) if lift is not None else {}
        return kind.model_validate_json(text) if lift is None or not values else kind.model_validate(lift(values))
    except ValidationError as error:
        version = newer() or _newer_text(text)
        if version is not None:
            raise RunError(
                f"{where} was written by fastadasp {version}, and this is {installed_version()}; update fastadasp"
            ) from None
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RunError(f"{where} is damaged: {place + ': ' if place else ''}{first['msg']}") from None


def _newer(about: Run) -> str | None:
    """The version that wrote a run, if it is newer than this one."""
    return _if_newer(about.versions.get("fastadasp"))


def _newer_text(text: str) -> str | None:
    """The same of a description whose keys are not known."""
    try:
        return _if_newer(parse_json(text)["versions"]["fastadasp"])
    except (ValueError, TypeError, KeyError):
        return None


def _if_newer(version: str | None) -> str | None:
    try:
        return version if version and Version(version) > Version(installed_version()) else None
    except InvalidVersion:
        return None
