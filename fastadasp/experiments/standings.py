"""From cells to what may be said about them: seeds together, differences to the baseline, ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from fastadasp.contracts.task import Example, Task
from fastadasp.experiments.axes import budget_value
from fastadasp.experiments.combinations import Point, describe
from fastadasp.experiments.drive import Finished
from fastadasp.experiments.records import Result, Standing, Worst
from fastadasp.experiments.spec import Spec
from fastadasp.experiments.statistics import (
    FEWEST,
    Difference,
    Sample,
    by_clip,
    difference,
    draw,
    holm,
    interval,
    number,
    rank,
    unit_names,
)
from fastadasp.inference.costs import Efficiency


@dataclass(frozen=True)
class Entry:
    """One line of a table: what may be said of it, what its seeds cost, and all their metrics.

    `saves` says what a strategy saves, in the words of `SAVES`; empty for the full model.
    """

    standing: Standing
    costs: list[Efficiency] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    worst: list[Worst] = field(default_factory=list)
    saves: str = ""


SAVES = ("strategies that shorten the sequence", "strategies that evict keys and values alone")
"""What saves FLOPs of the prefill, and what saves bytes of the cache: they never share a table."""


def apart(entries: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    """The lines of each kind in `SAVES`, with those of the full model; all of them, unnamed, if there is one kind."""
    kinds = [kind for kind in SAVES if any(entry.saves == kind for entry in entries)]
    if len(kinds) < 2:
        return [("", list(entries))]
    return [(kind, [entry for entry in entries if entry.saves in ("", kind)]) for kind in kinds]


@dataclass(frozen=True)
class Seeds:
    """The seeds of one recipe at one budget on one task.

    Attributes:
        ran: those that did not fail, as `results` has them.
        sample: their scores; None if every seed failed.
    """

    points: list[Point]
    ran: list[Point]
    results: list[Result]
    sample: Sample | None

    @property
    def labels(self) -> dict[str, str]:
        return self.points[0].labels

    @property
    def saves(self) -> str:
        """One of `SAVES`; empty for the full model."""
        strategy = self.points[0].row.strategy
        return "" if strategy is None else SAVES[strategy.site == "cache"]


Key = tuple[str, ...]


def standings(
    spec: Spec, finished: Finished, tasks: Mapping[str, Task], examples: Mapping[str, Sequence[Example]]
) -> dict[str, list[Entry]]:
    """For each task one entry for each recipe and budget that was run, in the order of the study.

    Differences are corrected for all comparisons of one kind (`SAVES`) on a task (Holm), and have no interval over
    fewer than `FEWEST` units.
    """
    out: dict[str, list[Entry]] = {}
    for name, task in tasks.items():
        groups = _groups(finished, task, examples[name])
        if not groups:
            continue
        samples = {key: group.sample for key, group in groups.items() if group.sample is not None}
        pairs = {key: other for key in samples if (other := _baseline(spec, groups[key])) in samples and other != key}
        gaps = {
            key: difference(samples[key], samples[other], higher_is_better=task.higher_is_better)
            for key, other in pairs.items()
        }
        corrected: dict[Key, float] = {}
        for kind in ("", *SAVES):
            own = [key for key in gaps if groups[key].saves == kind]
            corrected |= dict(zip(own, holm([gaps[key].p for key in own]), strict=True))
        ranks = _ranks(groups, samples, task)
        out[name] = [
            Entry(
                _standing(
                    group,
                    task,
                    gaps.get(key),
                    corrected.get(key),
                    describe(groups[pairs[key]].labels) if key in pairs else None,
                    ranks.get(key),
                ),
                [result.efficiency for result in group.results if result.efficiency is not None],
                [result.metrics for result in group.results],
                [result.worst for result in group.results if result.worst is not None],
                group.saves,
            )
            for key, group in groups.items()
        ]
    return out


def _groups(finished: Finished, task: Task, examples: Sequence[Example]) -> dict[Key, Seeds]:
    points: dict[Key, list[Point]] = {}
    for point in finished.grid.points:
        if point.task == task.name and point.cell in finished.results:
            points.setdefault(point.line, []).append(point)
    references = [example.reference for example in examples]
    units = number(unit_names(task, examples))
    out = {}
    for key, seeds in points.items():
        ran = [point for point in seeds if finished.results[point.cell].error is None]
        results = [finished.results[point.cell] for point in ran]
        sample = Sample(
            np.array([result.metrics[task.metric] for result in results]),
            np.array([draw(task, result.answers, references, units) for result in results]),
            np.array([by_clip(task, result.answers, references) for result in results]),
            units,
        )
        out[key] = Seeds(seeds, ran, results, sample if results else None)
    return out


def _baseline(spec: Spec, group: Seeds) -> Key:
    """What a line is compared with: equal but for what the baseline names."""
    task = group.points[0].task
    if spec.baseline is None or not group.labels:
        return (task,)
    return (task, *{**group.labels, **spec.baseline}.values())


def _ranks(groups: Mapping[Key, Seeds], samples: Mapping[Key, Sample], task: Task) -> dict[Key, int]:
    """Ranks among the lines of one kind that have a budget in common."""
    budgets: dict[tuple[str, str], list[Key]] = {}
    for key in samples:
        if groups[key].labels:
            budgets.setdefault((groups[key].labels["budgets"], groups[key].saves), []).append(key)
    out: dict[Key, int] = {}
    for keys in budgets.values():
        ranks = rank([samples[key] for key in keys], higher_is_better=task.higher_is_better)
        out.update(zip(keys, ranks, strict=True))
    return out


def _standing(
    group: Seeds, task: Task, gap: Difference | None, corrected: float | None, against: str | None, place: int | None
) -> Standing:
    first, sample = group.points[0], group.sample
    costs = [result.efficiency for result in group.results if result.efficiency is not None]
    size = 0 if sample is None else sample.size
    return Standing(
        task=task.name,
        strategy=first.row.name,
        axes=first.axes,
        budget=budget_value(first.row),
        seeds=[point.row.seed for point in group.ran],
        metric=task.metric,
        value=None if sample is None else sample.value,
        interval=None if sample is None else interval(sample.spread(), size),
        audio_tokens_removed=fmean(cost.audio_tokens_removed for cost in costs) if costs else None,
        flops_removed=fmean(cost.flops_removed for cost in costs) if costs else None,
        baseline=against,
        difference=None if gap is None else gap.value,
        difference_interval=None if gap is None or size < FEWEST else gap.interval,
        wins=None if gap is None else gap.wins,
        ties=None if gap is None else gap.ties,
        losses=None if gap is None else gap.losses,
        p=None if gap is None else gap.p,
        p_holm=corrected,
        rank=place,
    )
