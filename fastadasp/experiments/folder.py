"""The folder of a run of `compare` or `ablate`.

What is computed is written in the order of the axes and is the same whatever happened on the way; what a clock or a
machine adds stands in files of its own (``times.jsonl``, ``times.md``, ``run.json``). Files are replaced as wholes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from fastadasp.contracts.task import Example, Task
from fastadasp.errors import RunError
from fastadasp.experiments.axes import budget_value
from fastadasp.experiments.combinations import Point
from fastadasp.experiments.drive import Finished
from fastadasp.experiments.old_format import STUDY
from fastadasp.experiments.records import CLIP_TIMES, TIMES, Cell, Prediction, Record, Result, Run, Standing, Times
from fastadasp.experiments.statistics import unit_names
from fastadasp.files import read_text, told, write_whole

RUN, RESULTS, PREDICTIONS = "run.json", "results.jsonl", "predictions.jsonl"
STATISTICS, CLOCK, TABLE, TIMES_TABLE = "statistics.jsonl", "times.jsonl", "table.md", "times.md"

FREE = ("baseline",)
"""Arguments that decide no cell, so that a run may go on with others."""


def check_folder(folder: Path, command: str, arguments: Mapping[str, object], study: str | None = None) -> None:
    """Refuses a folder that cannot be written or that holds anything but this run.

    Args:
        study: hash over the cells (`Grid.study`); None while it is not known.

    Raises:
        RunError: says what is in the way.
    """
    with told(folder):
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        taken = [name for name in (RESULTS, PREDICTIONS, STUDY) if _content(folder / name)]
        described = _content(folder / RUN)
    if not existing.is_dir():
        raise RunError(f"output folder {folder} cannot be made: {existing} is a file")
    if not os.access(existing, os.W_OK):
        raise RunError(f"output folder {folder} cannot be written: no permission in {existing}")
    if not described:
        if taken:
            raise RunError(f"output folder {folder} already holds a run ({', '.join(taken)}); choose another folder")
        return
    try:
        found = Run.model_validate_json(read_text(folder / RUN))
    except (ValidationError, ValueError, OSError):
        raise RunError(
            f"output folder {folder} already holds a run ({RUN}) that cannot be understood, or that another version of "
            "fastadasp wrote; choose another folder"
        ) from None
    old, new = found.arguments, json.loads(json.dumps(arguments))
    changed = [key for key in {**old, **new} if key not in FREE and old.get(key) != new.get(key)]
    if found.command != command:
        what = f"it was made by fastadasp {found.command}"
    elif changed:
        what = f"changed: {', '.join(changed)}"
    elif study is not None and found.study != study:
        what = "the model, a task, its clips, a plugin or a version changed"
    else:
        return
    says = "holds another study" if command == "ablate" else "already holds a run of other arguments"
    raise RunError(
        f"output folder {folder} {says} ({what}); choose another folder. Cells that both have are taken from a common "
        "--store all the same"
    )


def batch_size_in(folder: Path) -> int | None:
    """The batch size that the run in a folder found; None where there is none yet."""
    try:
        return Run.model_validate_json(read_text(folder / RUN)).batch_size
    except (ValidationError, ValueError, OSError):  # `check_folder` says what is wrong
        return None


def write_run(folder: Path, run: Run) -> None:
    """Writes ``run.json``. Raises RunError."""
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RUN, json.dumps(run.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")


def write_cells(
    folder: Path, finished: Finished, tasks: Mapping[str, Task], examples: Mapping[str, Sequence[Example]]
) -> None:
    """Writes the cells that are done: their results, answers and times. Raises RunError."""
    done = [(point, finished.results[point.cell]) for point in finished.points]
    units = {name: unit_names(tasks[name], clips) for name, clips in examples.items()}
    answers = [
        line for point, result in done for line in _predictions(point, result, examples[point.task], units[point.task])
    ]
    with told(folder):
        write_whole(folder / PREDICTIONS, _lines(answers))
        write_whole(folder / CLOCK, _lines(_times(result) for _, result in done))
        write_whole(folder / RESULTS, _lines(cell_of(p, result, len(examples[p.task])) for p, result in done))


def write_tables(folder: Path, standings: Iterable[Standing], table: str, times: str) -> None:
    """Writes what may be said of the cells, and the tables of their times. Raises RunError."""
    with told(folder):
        write_whole(folder / STATISTICS, _lines(standings))
        write_whole(folder / TABLE, table)
        write_whole(folder / TIMES_TABLE, times)


def _content(path: Path) -> bool:
    """Whether there is something in a file. An empty one is what a full disk left, and counts as none."""
    return path.exists() and not (path.is_file() and path.stat().st_size == 0)


def cell_of(point: Point, result: Result, clips: int) -> Cell:
    """A result under the name that this run gives it."""
    return Cell(
        cell=point.cell,
        strategy=point.row.name,
        task=point.task,
        axes=point.axes,
        budget=budget_value(point.row),
        layer=result.layer,
        seed=point.row.seed,
        clips=clips,
        metrics=result.metrics,
        interval=result.interval,
        efficiency=None if result.efficiency is None else result.efficiency.model_dump(exclude=set(TIMES)),
        worst=result.worst,
        engine=result.identity.get("engine", "transformers"),
        error=result.error,
    )


def _predictions(point: Point, result: Result, examples: Sequence[Example], units: Sequence[str]) -> list[Prediction]:
    """The answers of a cell; none if it failed."""
    if not result.answers:
        return []
    return [
        Prediction(
            cell=point.cell,
            strategy=point.row.name,
            task=point.task,
            axes=point.axes,
            budget=budget_value(point.row),
            seed=point.row.seed,
            id=example.id,
            audio=example.audio.name,
            unit=unit,
            reference=example.reference,
            prediction=answer,
            tags=example.tags,
        )
        for example, answer, unit in zip(examples, result.answers, units, strict=True)
    ]


def _times(result: Result) -> Times:
    costs = result.efficiency
    return Times(
        cell=result.cell,
        prefill_seconds=None if costs is None else costs.prefill_seconds,
        decode_seconds=None if costs is None else costs.decode_seconds,
        **({} if costs is None else costs.model_dump(include=set(CLIP_TIMES))),
        started=_moment(result.started),
        seconds=round(result.seconds, 3),
        host=result.host,
        device_name=result.device_name,
    )


def _moment(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601, UTC; empty for what no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return ""


def _lines(records: Iterable[Record]) -> str:
    return "".join(json.dumps(record.model_dump(mode="json"), ensure_ascii=False) + "\n" for record in records)
