"""Sweep: what a task really loses at every candidate layer, beside what a layer selector estimates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field

from fastadasp.contracts.task import Task
from fastadasp.experiments.identity import hash_model
from fastadasp.experiments.records import Record
from fastadasp.experiments.statistics import Units, number, unit_names
from fastadasp.inference.clips import ReadyClip
from fastadasp.inference.load import LoadedModel
from fastadasp.inference.runner import run_cell
from fastadasp.recipes.recipe import Recipe
from fastadasp.selection.calibration import Calibration
from fastadasp.selection.select import check_choice, common_budget, selector_of
from fastadasp.strategy import Strategy

SPLITS = 40
"""Random halvings of the recordings that the outcome's own reliability is measured on."""


class Estimate(Record):
    """One layer selector against the outcome."""

    selector: dict[str, Any] = Field(description="name and parameters")
    layer: int = Field(description="the layer it chose")
    losses: dict[int, float] = Field(description="estimated loss of each candidate, larger is worse")
    correlation: float | None = Field(description="Spearman's rank correlation with the outcome; null if one is flat")
    correlation_full: float | None = Field(description="the same with the score against the full model's answers")
    behind: float = Field(description="points that the chosen layer is behind the best one")
    seconds: float = Field(description="time of the choice, runs of the calibration clips included for the first")
    details: dict[str, Any] = Field(description="how the selector estimated")


class Sweep(Record):
    """One strategy at one budget on one task, started at every candidate layer."""

    model_hash: str = Field(description="hash of the model's weights and of its other files")
    task: str = Field(description="name of the task")
    strategy: str = Field(description="name of the strategy")
    budget: str = Field(description="budget that all candidates meet")
    metric: str = Field(description="headline metric of the task")
    higher_is_better: bool = Field(description="of that metric")
    clips: int = Field(description="clips of the outcome")
    calibration: list[str] = Field(description="ids of the calibration clips")
    calibration_from: str = Field(description="what the calibration clips are")
    full: float = Field(description="metric of the full model")
    outcome: dict[int, float] = Field(description="metric of each candidate layer, over all clips")
    outcome_full: dict[int, float] = Field(description="the same, scored against the full model's answers")
    halves: float | None = Field(
        description="rank correlation of the outcome on one half of the recordings with that on the other, mean "
        f"of {SPLITS} halvings; null if it is flat"
    )
    left_out: dict[int, str] = Field(description="layers that cannot meet the budget, with the reason")
    estimates: list[Estimate] = Field(description="the layer selectors that were tried")


def sweep(
    loaded: LoadedModel,
    strategies: Sequence[Strategy],
    task: Task,
    clips: Sequence[ReadyClip],
    calibration: tuple[Sequence[ReadyClip], str],
    *,
    batch_size: int = 12,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Sweep:
    """Runs the task at every candidate layer.

    Args:
        strategies: one recipe with the layer selectors to try; alike in all but `layers`.
        clips: of the outcome.
        calibration: what the selectors see, and what those clips are.
        progress: called with (what is being done, how much of it is done, of how much).

    Raises:
        StrategyError: no layer meets the budget.
    """
    first = strategies[0]
    lengths = [(clip.tokens - clip.audio_tokens, clip.audio_tokens) for clip in clips]
    budget = common_budget(first)
    about = f"{task.name} {first.name} {budget}"
    begin = time.monotonic()
    seen = Calibration(
        loaded,
        first,
        calibration[0],
        budget,
        lengths=lengths,
        max_new_tokens=task.max_new_tokens,
        batch_size=batch_size,
        progress=lambda done, total: progress(f"{about}: choosing", done, total),
    )
    choices = []
    for strategy in strategies:
        selector = selector_of(strategy)
        choices.append((selector, check_choice(selector, selector.choose(seen), seen), time.monotonic() - begin))
        begin = time.monotonic()

    done, cells = 0, 1 + len(seen.candidates)

    def tell(clips_more: int) -> None:
        nonlocal done
        done += clips_more
        progress(f"{about}: outcome", done, cells * len(clips))

    def answers(strategy: Recipe | None) -> list[str]:
        return run_cell(
            loaded,
            strategy,
            clips,
            max_new_tokens=task.max_new_tokens,
            batch_size=batch_size,
            progress=tell,
            choices=task.choices,
        ).predictions

    references = [clip.example.reference for clip in clips]
    full = answers(None)
    said: dict[int, list[str]] = {}
    for layer in seen.candidates:
        said[layer] = answers(seen.at(layer))

    def score(given: Sequence[str], wanted: Sequence[str]) -> float:
        return task.score(given, wanted)[task.metric]

    outcome = {layer: score(said[layer], references) for layer in said}
    lost = behind(outcome, task.higher_is_better)
    against = {layer: score(said[layer], full) for layer in said}
    sign = -1.0 if task.higher_is_better else 1.0
    estimates = []
    for selector, choice, seconds in choices:
        losses = [choice.losses[layer] for layer in said]
        estimates.append(
            Estimate(
                selector={"name": selector.name, **selector.parameters()},
                layer=choice.layer,
                losses=choice.losses,
                correlation=rank_correlation(losses, [sign * outcome[layer] for layer in said]),
                correlation_full=rank_correlation(losses, [sign * against[layer] for layer in said]),
                behind=lost[choice.layer],
                seconds=round(seconds, 2),
                details=choice.details,
            )
        )
    units = number(unit_names(task, [clip.example for clip in clips]))
    return Sweep(
        model_hash=hash_model(loaded),
        task=task.name,
        strategy=first.name,
        budget=str(seen.budget),
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        clips=len(clips),
        calibration=[clip.example.id for clip in calibration[0]],
        calibration_from=calibration[1],
        full=score(full, references),
        outcome=outcome,
        outcome_full=against,
        halves=_halves(score, said, references, units),
        left_out=seen.left_out,
        estimates=estimates,
    )


def behind(outcome: Mapping[int, float], higher_is_better: bool) -> dict[int, float]:
    """Points that each layer is behind the best one."""
    sign = -1.0 if higher_is_better else 1.0
    least = min(sign * value for value in outcome.values())
    return {layer: sign * value - least for layer, value in outcome.items()}


def near(points: Iterable[float]) -> int:
    """How many choices are within 1 point of the best, by their points behind it."""
    return sum(point <= 1 + 1e-9 for point in points)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's; None where it is not defined (fewer than two points, or all values of one side equal)."""
    from scipy.stats import rankdata

    if len(first) < 2 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    x, y = (rankdata(values) - (len(values) + 1) / 2 for values in (first, second))
    return float((x @ y) / ((x @ x) * (y @ y)) ** 0.5)


def _halves(
    score: Callable[[Sequence[str], Sequence[str]], float],
    said: dict[int, list[str]],
    references: Sequence[str],
    units: Units,
) -> float | None:
    """How well the outcome on half of the recordings ranks the layers as the other half does.

    Clips of one recording stay together: both halves would hear it otherwise, and agree by that alone.
    """
    import numpy as np

    rng, found = np.random.default_rng(0), []
    names = np.unique(units)
    if len(names) < 2:
        return None
    for _ in range(SPLITS):
        first = np.isin(units, rng.permutation(names)[: len(names) // 2])
        curves = [
            [score([answers[i] for i in side], [references[i] for i in side]) for answers in said.values()]
            for side in (np.flatnonzero(first), np.flatnonzero(~first))
        ]
        if (value := rank_correlation(*curves)) is not None:
            found.append(value)
    return sum(found) / len(found) if found else None
