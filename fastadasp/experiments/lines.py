"""Lines of a table: cells that differ only in the seed are one line, with a bootstrap interval over the clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from fastadasp.contracts.task import Task
from fastadasp.experiments.records import Cell
from fastadasp.inference.costs import Efficiency

ROUNDS = 1000
"""Bootstrap samples of an interval."""

FEWEST = 20
"""Clips that an interval needs."""

Draws = NDArray[np.float64]
"""The headline metric of a cell on each bootstrap sample of the clips, [ROUNDS]."""


@dataclass(frozen=True)
class Line:
    """One strategy at one budget on one task.

    Attributes:
        cells: one a seed.
        value: the headline metric, mean over seeds; None if every seed failed.
        interval: 95 % interval of that mean over resampled clips; None if it is not known.
    """

    cells: tuple[Cell, ...]
    value: float | None
    interval: tuple[float, float] | None

    @property
    def strategy(self) -> str:
        return self.cells[0].strategy

    @property
    def budget(self) -> str:
        return "-" if self.cells[0].budget is None else str(self.cells[0].budget)

    @property
    def costs(self) -> list[Efficiency]:
        """The costs of the seeds that ran."""
        return [cell.efficiency for cell in self.cells if cell.efficiency is not None]


def draw(task: Task, predictions: Sequence[str], references: Sequence[str]) -> Draws:
    """The headline metric on `ROUNDS` samples of the clips with replacement, the same samples for every cell."""
    chosen = np.random.default_rng(0).integers(len(references), size=(ROUNDS, len(references)))
    tally = task.tally(predictions, references)
    if tally is not None:
        return np.array([tally.total(counts) for counts in tally.counts[chosen].sum(axis=1)])
    scores = [
        task.score([predictions[i] for i in places], [references[i] for i in places])[task.metric] for places in chosen
    ]
    return np.array(scores)


def interval(draws: Draws, clips: int = FEWEST) -> tuple[float, float] | None:
    """The middle 95 %; None for fewer than `FEWEST` clips, or where every sample scores the same.

    A bootstrap over a handful of clips is far too narrow, and one that cannot vary says nothing at all.
    """
    if clips < FEWEST or float(np.ptp(draws)) == 0:
        return None
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def lines(task: Task, cells: Sequence[Cell], draws: Sequence[Draws | None]) -> list[Line]:
    """Groups a task's cells by strategy and budget, in their order."""
    groups: dict[tuple[str, object], list[int]] = {}
    for place, cell in enumerate(cells):
        groups.setdefault((cell.strategy, cell.budget), []).append(place)
    out = []
    for places in groups.values():
        scored = [cells[i].metrics[task.metric] for i in places if cells[i].error is None]
        drawn = [draws[i] for i in places if cells[i].error is None]
        known = [d for d in drawn if d is not None]
        whole = known and len(known) == len(scored)
        span = interval(np.mean(known, axis=0), cells[places[0]].clips) if whole else None
        out.append(Line(tuple(cells[i] for i in places), fmean(scored) if scored else None, span))
    return out
