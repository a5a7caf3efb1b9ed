"""Lines of a report: the seeds of one recipe at one budget on one task, with what may be said of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean
from typing import Any

import numpy as np

from fastadasp.contracts.task import Task
from fastadasp.errors import FastAdaSPError, RunError
from fastadasp.experiments.axes import FULL, find_task
from fastadasp.experiments.records import Cell, Prediction, Times
from fastadasp.experiments.statistics import FEWEST, Sample, by_clip, difference, draw, holm, interval, number, rank
from fastadasp.experiments.times import Spent, spent
from fastadasp.report.source import Source, key
from fastadasp.tasks.sources.address import split_task


@dataclass
class Line:
    """One line.

    Attributes:
        run: which of the report's runs, from 0.
        axes: of a study, what the recipe's axes are in it.
        cells: one a seed.
        value: the headline metric, mean over seeds; None if every seed failed.
        baseline: what differences are taken against; None if this is it, or nothing can be said.
        rank: among the lines of a budget; equal ranks are not distinguishable.
        prefill_seconds, decode_seconds: of a batch.
        spent: what a clip took.
        clock: the times of the cells that ran.
    """

    run: int
    task: str
    strategy: str
    axes: dict[str, str]
    budget: str
    metric: str
    cells: list[Cell]
    value: float | None = None
    interval: tuple[float, float] | None = None
    baseline: str | None = None
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    p_holm: float | None = None
    rank: int | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    spent: Spent = field(default_factory=Spent)
    clock: list[Times] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The recipe, with the axes that a study changed."""
        inside = ", ".join(f"{axis}={value}" for axis, value in self.axes.items())
        return f"{self.strategy} ({inside})" if inside else self.strategy

    def cost(self, name: str) -> float | None:
        """A cost of the cells, mean over the seeds that ran."""
        known = [_cost(cell, name) for cell in self.cells if cell.error is None]
        found = [value for value in known if value is not None]
        return fmean(found) if found else None


def lines_of(source: Source, run: int, progress: Callable[[], None] = lambda: None) -> list[Line]:
    """The lines of a run, in its order."""
    groups: dict[Any, list[Cell]] = {}
    for cell in source.cells:
        groups.setdefault((cell.task, cell.strategy, tuple(cell.axes.items()), str(cell.budget)), []).append(cell)
    tasks = known_tasks(source)
    out = []
    for cells in groups.values():
        first, done = cells[0], [cell for cell in cells if cell.error is None]
        task = tasks.get(first.task)
        metric = task.metric if task is not None else next((m for cell in done for m in cell.metrics), "")
        if any(metric not in cell.metrics for cell in done):
            raise RunError(
                f"{source.folder}: a cell of {first.strategy!r} on {first.task!r} has no metric {metric!r}; its "
                "results were changed, or written by another version of the task"
            )
        line = Line(
            run=run,
            task=first.task,
            strategy=first.strategy,
            axes=dict(first.axes),
            budget="-" if first.budget is None else str(first.budget),
            metric=metric,
            cells=cells,
            value=fmean(cell.metrics[metric] for cell in done) if done else None,
            interval=done[0].interval if len(done) == 1 else None,
            errors=list(dict.fromkeys(cell.error for cell in cells if cell.error is not None)),
        )
        line.clock = [one for cell in done if (one := source.times.get(cell.cell)) is not None]
        for name in ("prefill_seconds", "decode_seconds"):
            known = [value for one in line.clock if (value := getattr(one, name)) is not None]
            setattr(line, name, fmean(known) if known else None)
        out.append(line)
    for name in dict.fromkeys(line.task for line in out):
        own = [line for line in out if line.task == name]
        for line, times in zip(own, spent([(line.strategy == FULL, line.clock) for line in own]), strict=True):
            line.spent = times
    if source.standings:
        _take_standings(source, out)
    else:
        for name, task in tasks.items():
            _compare([line for line in out if line.task == name], task, source.predictions, progress)
    return out


def known_tasks(source: Source) -> dict[str, Task]:
    """The run's tasks that are installed here, by name: they say how answers are scored."""
    texts = {split_task(text)[0]: text for text in source.task_texts}
    found: dict[str, Task] = {}
    for name in dict.fromkeys(cell.task for cell in source.cells):
        for text in (texts.get(name, name), name):  # the clips of its own may be gone; the metric is not
            try:
                found[name] = find_task(text)
                break
            except FastAdaSPError:
                continue
    return found


def _take_standings(source: Source, lines: Sequence[Line]) -> None:
    """Puts a study's own statistics into the lines."""
    standings = {(s.task, s.strategy, tuple(s.axes.items()), str(s.budget)): s for s in source.standings}
    for line in lines:
        budget = "None" if line.budget == "-" else line.budget
        standing = standings.get((line.task, line.strategy, tuple(line.axes.items()), budget))
        usable = line.value is not None and isfinite(line.value)  # else the cells were changed since
        if usable and standing is not None and standing.value is not None:
            line.value, line.interval, line.metric = standing.value, standing.interval, standing.metric
            for name in _SAID:
                setattr(line, name, getattr(standing, name))


_SAID = ("baseline", "difference", "difference_interval", "wins", "ties", "losses", "p_holm", "rank")


def _compare(
    lines: Sequence[Line], task: Task, answers: dict[Any, list[Prediction]], progress: Callable[[], None]
) -> None:
    """What may be said of the lines of a task: intervals, differences to the full model, ranks within a budget."""
    samples: dict[int, Sample] = {}
    clips: list[str] | None = None
    for place, line in enumerate(lines):
        found = sample_of(task, line, answers)
        clips = clips or (found[0] if found else None)
        if found is None or clips is None or found[0] != clips:
            continue
        samples[place] = found[1]
        line.interval = interval(samples[place].spread(), samples[place].size)
        progress()
    base = next((place for place, line in enumerate(lines) if line.strategy == FULL and place in samples), None)
    told = [place for place in samples if base is not None and place != base]
    gaps = [
        difference(samples[p], samples[base], higher_is_better=task.higher_is_better) for p in told if base is not None
    ]
    for place, gap, corrected in zip(told, gaps, holm([gap.p for gap in gaps]), strict=True):
        line = lines[place]
        line.baseline, line.difference = FULL, gap.value
        line.difference_interval = gap.interval if samples[place].size >= FEWEST else None
        line.wins, line.ties, line.losses, line.p_holm = gap.wins, gap.ties, gap.losses, corrected
    budgets: dict[str, list[int]] = {}
    for place in samples:
        if lines[place].strategy != FULL:
            budgets.setdefault(lines[place].budget, []).append(place)
    for places in budgets.values():
        ranks = rank([samples[p] for p in places], higher_is_better=task.higher_is_better)
        for place, one in zip(places, ranks, strict=True):
            lines[place].rank = one


def sample_of(task: Task, line: Line, answers: dict[Any, list[Prediction]]) -> tuple[list[str], Sample] | None:
    """The clips of a line and the scores of its seeds on them; None if its seeds did not answer the same clips.

    Args:
        answers: of the line's run, by the cell's key.
    """
    given = [answers.get(key(cell), []) for cell in line.cells if cell.error is None]
    ids = [[answer.id for answer in one] for one in given]
    if not ids or not ids[0] or any(one != ids[0] for one in ids):
        return None
    references = [answer.reference for answer in given[0]]
    units = number([answer.unit or answer.audio for answer in given[0]])
    texts = [[answer.prediction for answer in one] for one in given]
    return ids[0], Sample(
        np.array([task.score(one, references)[task.metric] for one in texts]),
        np.array([draw(task, one, references, units) for one in texts]),
        np.array([by_clip(task, one, references) for one in texts]),
        units,
    )


def _cost(cell: Cell, name: str) -> float | None:
    value = None if cell.efficiency is None else cell.efficiency.get(name)
    try:
        return None if value is None else float(value)
    except OverflowError:
        raise RunError(
            f"a cell of {cell.strategy!r} on {cell.task!r} has {name} of more digits than any cost"
        ) from None
