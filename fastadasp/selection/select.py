"""Chooses the start layer of a strategy on calibration clips, or takes the choice from the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from fastadasp.contracts.task import Example, Task
from fastadasp.counts.budget import Budget
from fastadasp.errors import DataError, StrategyError
from fastadasp.files import hash_file
from fastadasp.inference.clips import ReadyClip, prepare
from fastadasp.inference.load import LoadedModel
from fastadasp.recipes.recipe import Recipe
from fastadasp.recipes.sources import part_sources
from fastadasp.selection.cache import Notice, entry_path, read_entry, warn, write_entry
from fastadasp.selection.calibrated import CalibratedSelector
from fastadasp.selection.calibration import Calibration
from fastadasp.selection.choice import CalibrationClip, LayerChoice, Selection
from fastadasp.version import installed_version

CLIPS = 16
"""Calibration clips, unless told otherwise."""
TOGETHER = 12
"""Clips that are encoded at a time, as many as a comparison takes unless told otherwise."""

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)
OWN, FIRST, GIVEN = "the task's calibration clips", "the first clips of the task", "clips given by the caller"


def calibration_examples(task: Task, count: int = CLIPS) -> tuple[list[Example], str]:
    """The clips to calibrate a task on, and what they are."""
    own = task.calibration(count)
    return (own, OWN) if own else (task.examples(count), FIRST)


def selector_of(strategy: Recipe) -> CalibratedSelector:
    """The strategy's layer selector. Raises StrategyError if it is not one that is calibrated."""
    if not isinstance(strategy.layers, CalibratedSelector):
        raise StrategyError(
            f"recipe {strategy.name!r}: layer selector {strategy.layers.name!r} needs no calibration; name one that "
            "does as layers.name"
        )
    return strategy.layers


def common_budget(strategy: Recipe) -> Budget:
    """What the candidates are compared at: the recipe's own FLOPs, or those that its selector names."""
    return strategy.budget if strategy.budget.kind == "flops" else Budget(flops=selector_of(strategy).flops)


def select_layer(
    loaded: LoadedModel,
    strategy: Recipe,
    examples: Sequence[Example],
    *,
    label: str = "clips",
    clips_from: str = GIVEN,
    max_new_tokens: int = 32,
    ready: Mapping[tuple[str, str], ReadyClip] | None = None,
    cached: bool = True,
    notice: Notice = warn,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Selection:
    """The strategy's layer selector, at work on these examples.

    Args:
        label: what the examples are called, e.g. the task's name.
        clips_from: what they are, for the record.
        max_new_tokens: longest answer that is looked at.
        ready: examples that are already prepared, by (recording, instruction).
        cached: take the choice from the cache where it is there and not stale, and put a new one in.
        notice: is told about stale and damaged entries.
        progress: called with (what is being done, how much of it is done, of how much).

    Raises:
        StrategyError: the selector needs no calibration, or no layer meets the budget.
        DataError: there are no clips, or one cannot be read.

    Example::

        >>> loaded = fastadasp.load_model(model_folder)
        >>> clips = fastadasp.get_registry().get("task", "er").examples(2)
        >>> strategy = fastadasp.load_strategy("fastadasp-sparse", layers={"features": "audio"})
        >>> choice = fastadasp.select_layer(loaded, strategy, clips).choice
        >>> choice.layer in choice.losses
        True
    """
    begin = time.monotonic()
    selector = selector_of(strategy)
    if not examples:
        raise DataError("a layer cannot be chosen without calibration clips")
    open_selector = selector.model_copy(update={"layer": None})
    strategy = strategy.replace(layers=open_selector)
    about = {"name": selector.name, **open_selector.parameters()}
    budget = common_budget(strategy)
    clips = tuple(
        CalibrationClip(id=e.id, audio=e.audio.name, sha256=hash_file(e.audio), instruction=e.instruction)
        for e in examples
    )
    source = {
        "format": Selection.model_fields["format"].default,
        "model_hash": loaded.weights_hash,
        "dtype": loaded.dtype,
        "device": loaded.device,
        "version": installed_version(),
        "sources": _sources(strategy),
        "strategy_hash": strategy.content_hash(),
        "clips": clips,
        "clips_from": clips_from,
    }
    identity = {
        "model": str(Path(loaded.path).absolute()) if Path(loaded.path).is_dir() else loaded.path,
        "strategy": strategy.name,
        "seed": strategy.seed,
        "selector": about,
        "budget": [str(strategy.budget), str(budget)],
        "label": label,
        "clips": len(clips),
        "answer": max_new_tokens,
    }
    path = entry_path(f"{selector.name}-{strategy.name}-{label}", identity)
    if cached and (found := read_entry(path, source, notice)):
        return found
    if ready is None:
        ready = prepare(loaded, examples, TOGETHER, lambda done: progress(f"{label}: encoding", done, len(examples)))
    chosen = [ready[str(e.audio), e.instruction] for e in examples]
    calibration = Calibration(
        loaded,
        strategy,
        chosen,
        budget,
        max_new_tokens=max_new_tokens,
        progress=lambda done, total: progress(f"{label}: {strategy.name}", done, total),
    )
    choice = check_choice(selector, open_selector.choose(calibration), calibration)
    selection = Selection.model_validate(
        source
        | {
            "choice": choice,
            "selector": about,
            "strategy": strategy.name,
            "budget": str(budget),
            "left_out": calibration.left_out,
            "model": loaded.path,
            "seconds": round(time.monotonic() - begin, 3),
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    if cached:
        write_entry(path, selection, notice)
    return selection


def _sources(strategy: Recipe) -> dict[str, str]:
    """Those of every part that a choice depends on, of a second stage, too."""
    later = {} if strategy.then is None else _sources(strategy.then)
    return {**part_sources(strategy), **{f"then.{part}": source for part, source in later.items()}}


def check_choice(selector: CalibratedSelector, choice: LayerChoice, calibration: Calibration) -> LayerChoice:
    """Refuses an answer that leaves the candidates. Raises StrategyError."""
    if not isinstance(choice, LayerChoice) or set(choice.losses) != set(calibration.candidates):
        given = sorted(choice.losses) if isinstance(choice, LayerChoice) else choice
        raise StrategyError(
            f"layer selector {selector.name!r} is faulty: it must give a LayerChoice with a loss for each of "
            f"the layers {list(calibration.candidates)}, but gave {given}"
        )
    return choice


def at_layer(strategy: AnyRecipe, layer: int) -> AnyRecipe:
    """The strategy with its selector's choice filled in."""
    return strategy.replace(layers=selector_of(strategy).model_copy(update={"layer": layer}))
