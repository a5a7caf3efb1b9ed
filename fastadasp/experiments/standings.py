"""From cells to what may be said about them: seeds together, differences to the baseline, ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from fastadasp.contracts.task import Example, Task
from fastadasp.experiments.cell import budget_value
from fastadasp.experiments.drive import Outcome
from fastadasp.experiments.lines import draw, interval
from fastadasp.experiments.plan import Point, describe
from fastadasp.experiments.records import Result, Standing
from fastadasp.experiments.spec import Spec
from fastadasp.experiments.statistics import Difference, Floats, Sample, difference, holm, rank


@dataclass(frozen=True)
class Line:
    """The seeds of one recipe at one budget on one task, those that finished."""

    points: list[Point]
    results: list[Result]
    sample: Sample

    @property
    def labels(self) -> dict[str, str]:
        return self.points[0].labels


def standings(
    spec: Spec, outcome: Outcome, tasks: Mapping[str, Task], examples: Mapping[str, Sequence[Example]]
) -> list[Standing]:
    """One for each line that has a result, in the order of the study."""
    out: list[Standing] = []
    for name, task in tasks.items():
        found = _lines(outcome, task, examples[name])
        pairs = {key: other for key in found if (other := _baseline(spec, key, found)) is not None and other != key}
        gaps = {
            key: difference(found[key].sample, found[other].sample, higher_is_better=task.higher_is_better)
            for key, other in pairs.items()
        }
        corrected = dict(zip(gaps, holm([gap.p for gap in gaps.values()]), strict=True))
        ranks = _ranks(found, task)
        for key, line in found.items():
            against = describe(found[pairs[key]].labels) if key in pairs else None
            out.append(_standing(line, task, gaps.get(key), corrected.get(key), against, ranks.get(key)))
    return out


def _lines(outcome: Outcome, task: Task, examples: Sequence[Example]) -> dict[tuple[str, ...], Line]:
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in outcome.plan.points:
        result = outcome.results.get(point.cell)
        if point.task == task.name and result is not None and result.error is None:
            groups.setdefault(point.line, []).append(point)
    references = [example.reference for example in examples]
    out = {}
    for key, points in groups.items():
        results = [outcome.results[point.cell] for point in points]
        sample = Sample(
            np.array([result.metrics[task.metric] for result in results]),
            np.array([draw(task, result.answers, references) for result in results]),
            np.array([by_clip(task, result.answers, references) for result in results]),
        )
        out[key] = Line(points, results, sample)
    return out


def by_clip(task: Task, answers: Sequence[str], references: Sequence[str]) -> Floats:
    """The headline metric of each clip by itself, [clips]."""
    tally = task.tally(answers, references)
    if tally is not None:
        return np.array([tally.total(counts) for counts in tally.counts])
    pairs = zip(answers, references, strict=True)
    return np.array([task.score([answer], [reference])[task.metric] for answer, reference in pairs])


def _baseline(spec: Spec, key: tuple[str, ...], lines: Mapping[tuple[str, ...], Line]) -> tuple[str, ...] | None:
    """The line that a line is compared with: equal but for what the baseline names. None if it is not there."""
    task, *_ = key
    full = (task,)
    if spec.baseline is None or key == full:
        return full if full in lines else None
    other = (task, *{**lines[key].labels, **spec.baseline}.values())
    return other if other in lines else None


def _ranks(lines: Mapping[tuple[str, ...], Line], task: Task) -> dict[tuple[str, ...], int]:
    """Ranks among the lines that have a budget in common."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for key, line in lines.items():
        if line.labels:
            groups.setdefault(line.labels["budgets"], []).append(key)
    out: dict[tuple[str, ...], int] = {}
    for keys in groups.values():
        ranks = rank([lines[key].sample for key in keys], higher_is_better=task.higher_is_better)
        out.update(zip(keys, ranks, strict=True))
    return out


def _standing(
    line: Line, task: Task, gap: Difference | None, corrected: float | None, against: str | None, place: int | None
) -> Standing:
    first = line.points[0]
    costs = [result.efficiency for result in line.results if result.efficiency is not None]
    return Standing(
        task=task.name,
        strategy=first.row.name,
        axes=first.axes,
        budget=budget_value(first.row),
        seeds=[point.row.seed for point in line.points],
        metric=task.metric,
        value=line.sample.value,
        interval=interval(line.sample.spread(), line.sample.clips.shape[1]),
        audio_tokens_removed=fmean(cost.audio_tokens_removed for cost in costs),
        flops_removed=fmean(cost.flops_removed for cost in costs),
        baseline=against,
        difference=None if gap is None else gap.value,
        difference_interval=None if gap is None else gap.interval,
        wins=None if gap is None else gap.wins,
        ties=None if gap is None else gap.ties,
        losses=None if gap is None else gap.losses,
        p=None if gap is None else gap.p,
        p_holm=corrected,
        rank=place,
    )
