"""A study's folder. What is computed is written in the order of the study and is the same whatever happened on the way;
what a clock or a machine adds stands in files of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from fastadasp.contracts.task import Example
from fastadasp.errors import RunError
from fastadasp.experiments.cell import budget_value, predictions
from fastadasp.experiments.drive import Outcome
from fastadasp.experiments.folder import RUN, check_free, told, write_whole
from fastadasp.experiments.plan import Point
from fastadasp.experiments.records import TIMES, Record, Result, Standing, StudyCell, StudyPrediction, StudyRun, Times

STUDY, RESULTS, PREDICTIONS = "study.json", "results.jsonl", "predictions.jsonl"
STATISTICS, CLOCK, TABLE = "statistics.jsonl", "times.jsonl", "table.md"


def check_folder(folder: Path, study: str | None = None, arguments: Mapping[str, object] | None = None) -> None:
    """Refuses a folder that cannot be written or that holds anything but this study.

    Args:
        study: the study's hash; None while it is not known.

    Raises:
        RunError: says what is in the way.
    """
    path = folder / STUDY
    if not path.exists():
        check_free(folder)
        return
    with told(folder):
        text = path.read_text(encoding="utf-8")
    try:
        found = StudyRun.model_validate_json(text)
    except (ValidationError, ValueError):
        raise RunError(f"output folder {folder}: {path} cannot be understood; choose another folder") from None
    if (folder / RUN).exists():
        raise RunError(f"output folder {folder} already holds a run ({RUN}); choose another folder")
    if study is not None and found.study != study:
        old, new = found.arguments, dict(arguments or {})
        changed = [key for key in new if old.get(key) != new[key]]
        what = f"changed: {', '.join(changed)}" if changed else "the model, the clips, a plugin or a version changed"
        raise RunError(
            f"output folder {folder} holds another study ({what}); choose another folder. Cells that both have are "
            "taken from the store all the same"
        )


def write_run(folder: Path, run: StudyRun) -> None:
    """Writes ``study.json``. Raises RunError."""
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / STUDY, json.dumps(run.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")


def write_results(
    folder: Path,
    outcome: Outcome,
    examples: Mapping[str, Sequence[Example]],
    standings: Iterable[Standing],
    table: str,
) -> None:
    """Writes everything else. Raises RunError."""
    done = [(p, outcome.results[p.cell]) for p in outcome.plan.points if p.cell in outcome.results]
    cells = [study_cell(point, result, len(examples[point.task])) for point, result in done]
    answers = [
        StudyPrediction(cell=point.cell, axes=point.axes, **one.model_dump())
        for point, result in done
        for one in predictions(point.row, point.task, examples[point.task], result.answers)
    ]
    with told(folder):
        write_whole(folder / PREDICTIONS, _lines(answers))
        write_whole(folder / RESULTS, _lines(cells))
        write_whole(folder / STATISTICS, _lines(standings))
        write_whole(folder / CLOCK, _lines(_times(result) for _, result in done))
        write_whole(folder / TABLE, table)


def study_cell(point: Point, result: Result, clips: int) -> StudyCell:
    """A result under the name that a study gives it."""
    return StudyCell(
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
        error=result.error,
    )


def _times(result: Result) -> Times:
    costs = result.efficiency
    return Times(
        cell=result.cell,
        prefill_seconds=None if costs is None else costs.prefill_seconds,
        decode_seconds=None if costs is None else costs.decode_seconds,
        started=datetime.fromtimestamp(result.started, UTC).isoformat(timespec="seconds"),
        seconds=round(result.seconds, 3),
        host=result.host,
        device_name=result.device_name,
    )


def _lines(records: Iterable[Record]) -> str:
    return "".join(json.dumps(record.model_dump(mode="json"), ensure_ascii=False) + "\n" for record in records)
