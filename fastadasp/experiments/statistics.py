"""What may be said of a difference: intervals and tests over clips and seeds, and a ranking that admits ties.

A bootstrap sample takes units with replacement, the same ones for every strategy, so differences are paired. A unit is
what was recorded independently: a recording with all questions about it, or all clips of a speaker where the task says
so (`Task.unit`). Rows of one unit are not independent, and intervals that took them for it would be too narrow. Of S
seeds it takes S - 1 with replacement, which makes the variance of their mean unbiased (Rao and Wu, JASA 1988);
strategies with equally many seeds share the choice. With few clips or seeds the spread itself is uncertain: Student's
t takes the place of the normal distribution, its degrees of freedom by Welch and Satterthwaite.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from fastadasp.contracts.task import Example, Task

Floats = NDArray[np.float64]

ROUNDS = 1000
"""Bootstrap samples of an interval."""

FEWEST = 20
"""Units that an interval needs."""

Units = NDArray[np.int64]
"""Which unit each clip belongs to, counted from 0: [clips]."""

Draws = Floats
"""The headline metric of a cell on each bootstrap sample of the units, [ROUNDS]."""

LEVEL = 0.05
"""Error level of the ranking; intervals cover 1 - LEVEL."""
POWER = 0.8
"""How often a difference of the least size that shows is found."""
_NORMAL = float(norm.isf(LEVEL / 2))


@dataclass(frozen=True)
class Sample:
    """What one strategy scored on one task.

    Attributes:
        totals: the metric over all clips, [seeds].
        draws: the metric on bootstrap samples of the units, [seeds, rounds]; the same samples for all strategies.
        clips: the metric of each clip by itself, [seeds, clips].
        units: the unit of each clip; None where each clip is one.
    """

    totals: Floats
    draws: Floats
    clips: Floats
    units: Units | None = None

    @property
    def size(self) -> int:
        """How many units there are."""
        return self.clips.shape[1] if self.units is None else int(self.units.max(initial=-1)) + 1

    def moved(self, other: Sample) -> int:
        """Units on which two samples differ."""
        gap = np.abs(self.clips.mean(axis=0) - other.clips.mean(axis=0)) > 1e-9
        return int(gap.sum() if self.units is None else len(np.unique(self.units[gap])))

    @property
    def value(self) -> float:
        """The metric, mean over seeds."""
        return float(self.totals.mean())

    def spread(self) -> Floats:
        """The mean over seeds on bootstrap samples of clips and seeds, [rounds]."""
        seeds, rounds = self.draws.shape
        chosen = np.random.default_rng(1).integers(seeds, size=(rounds, max(seeds - 1, 1)))
        out: Floats = self.draws[chosen, np.arange(rounds)[:, None]].mean(axis=1)
        return out


@dataclass(frozen=True)
class Difference:
    """One strategy less another.

    Attributes:
        value: difference of the metric.
        interval: 95 % interval of it; None with fewer than two units.
        p: probability of a difference at least as large if there were none, two-sided.
        wins, ties, losses: clips on which the first is better, equal, worse (mean over seeds).
    """

    value: float
    interval: tuple[float, float] | None
    p: float
    wins: int
    ties: int
    losses: int


def unit_names(task: Task, examples: Iterable[Example]) -> list[str]:
    """What each clip's unit is called: the value of the task's column, or the recording where it has none.

    A recording is called by its path below the folder that all share.
    """
    examples = list(examples)
    folders = {str(example.audio.absolute().parent) for example in examples}
    shared = os.path.commonpath(folders) if folders else ""
    return [example.tags.get(task.unit) or os.path.relpath(example.audio.absolute(), shared) for example in examples]


def number(names: Sequence[str]) -> Units:
    """Units by their names, counted from 0 in the order in which they appear."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)


def draw(task: Task, predictions: Sequence[str], references: Sequence[str], units: Units | None = None) -> Draws:
    """The headline metric on `ROUNDS` samples of the units with replacement, the same samples for every cell."""
    units = np.arange(len(references)) if units is None else units
    size = int(units.max(initial=-1)) + 1
    drawn = np.random.default_rng(0).integers(size, size=(ROUNDS, size))
    tally = task.tally(predictions, references)
    if tally is not None:
        counts = np.zeros((size, *tally.counts.shape[1:]))
        np.add.at(counts, units, tally.counts)
        return np.array([tally.total(sums) for sums in counts[drawn].sum(axis=1)])
    members = [np.flatnonzero(units == unit) for unit in range(size)]
    chosen = (np.concatenate([members[unit] for unit in one]) for one in drawn)
    scores = [
        task.score([predictions[i] for i in places], [references[i] for i in places])[task.metric] for places in chosen
    ]
    return np.array(scores)


def interval(draws: Draws, units: int = FEWEST) -> tuple[float, float] | None:
    """The middle 95 %; None for fewer than `FEWEST` units, or where every sample scores the same.

    A bootstrap over a handful of them is far too narrow, and one that cannot vary says nothing at all.
    """
    if units < FEWEST or float(np.ptp(draws)) == 0:
        return None
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def by_clip(task: Task, answers: Sequence[str], references: Sequence[str]) -> Floats:
    """The headline metric of each clip by itself, [clips]."""
    tally = task.tally(answers, references)
    if tally is not None:
        return np.array([tally.total(counts) for counts in tally.counts])
    pairs = zip(answers, references, strict=True)
    return np.array([task.score([answer], [reference])[task.metric] for answer, reference in pairs])


def difference(first: Sample, second: Sample, *, higher_is_better: bool) -> Difference:
    """`first` less `second`. Both saw the same clips."""
    gap = first.clips.mean(axis=0) - second.clips.mean(axis=0)
    unequal = np.abs(gap) > 1e-9
    better = unequal & ((gap > 0) == higher_is_better)
    wins, moved, size = int(better.sum()), int(unequal.sum()), first.size
    value = first.value - second.value
    drawn = first.spread() - second.spread()
    p, freedom = _test(value, drawn, first, second)
    stretch = 1.0 if freedom is None else float(t.isf(LEVEL / 2, freedom) / _NORMAL) * (size / (size - 1)) ** 0.5
    low, high = (float(value + (q - value) * stretch) for q in np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2]))
    interval = None if size < 2 else (low, high)
    return Difference(value, interval, p, wins, len(gap) - moved, moved - wins)


def least_shown(interval: tuple[float, float]) -> float:
    """The smallest true difference that a two-sided test at `LEVEL` finds with `POWER`, from a difference's interval.

    The interval's half width is its standard error times the normal quantile of the level; the difference has to exceed
    that by the quantile of the power.
    """
    return (interval[1] - interval[0]) / 2 * (1 + float(norm.ppf(POWER)) / _NORMAL)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted probabilities (Scandinavian Journal of Statistics 1979), in the order given.

    Rejecting those at most a errs anywhere with probability at most a, whatever depends on what.
    """
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    raised = np.minimum(1.0, np.maximum.accumulate(factors * np.asarray(p, np.float64)[order]))
    out = np.empty(len(p))
    out[order] = raised
    return [float(x) for x in out]


def rank(samples: Sequence[Sample], *, higher_is_better: bool) -> list[int]:
    """Ranks from 1, in the order given; equal ranks are not distinguishable.

    All pairs are tested, Holm-corrected. From the best downwards, a strategy shares the rank of the best one of a rank
    unless the two can be told apart; then it opens a rank of its own, numbered by how many are before it.
    """
    values = np.array([sample.value for sample in samples])
    order = [int(i) for i in np.argsort(-values if higher_is_better else values, kind="stable")]
    spreads = [sample.spread() for sample in samples]
    pairs = [(a, b) for place, a in enumerate(order) for b in order[place + 1 :]]
    told = holm([_pair(samples[a], samples[b], spreads[a] - spreads[b]) for a, b in pairs])
    apart = {pair for pair, p in zip(pairs, told, strict=True) if p <= LEVEL}
    ranks = [1] * len(samples)
    head = order[0] if order else 0
    for place, one in enumerate(order):
        if (head, one) in apart:
            head, ranks[one] = one, place + 1
        ranks[one] = ranks[head]
    return ranks


def _pair(first: Sample, second: Sample, drawn: Floats) -> float:
    return _test(first.value - second.value, drawn, first, second)[0]


def _test(value: float, drawn: Floats, first: Sample, second: Sample) -> tuple[float, float | None]:
    """The probability of such a difference, and its degrees of freedom; None where nothing varies.

    The probability is never below what a sign test could give with as many units as differ, so that a handful of units
    that all agree does not look like certainty.
    """
    size, moved = first.size, first.moved(second)
    if moved == 0 or size < 2:
        return 1.0, None
    few = size / (size - 1)
    seeds = _seed_variances(first, second)
    rest = max(float(drawn.var()) * few - sum(v for v, _ in seeds), 0.0)
    parts = [(rest, size - 1), *seeds]
    whole = sum(v for v, _ in parts)
    floor = 2.0 ** (1 - moved)
    if whole <= 0:
        return floor, None
    freedom = whole**2 / sum(v**2 / df for v, df in parts)
    p = 2 * float(t.sf(abs(value) / whole**0.5, freedom))
    return min(1.0, max(p, floor)), freedom


def _seed_variances(first: Sample, second: Sample) -> list[tuple[float, int]]:
    """What seeds add to the variance of the difference, with the degrees of freedom of each part."""
    paired = len(first.totals) == len(second.totals)
    parts = [first.totals - second.totals] if paired else [first.totals, second.totals]
    return [(float(x.var(ddof=1)) / len(x), len(x) - 1) for x in parts if len(x) > 1]
