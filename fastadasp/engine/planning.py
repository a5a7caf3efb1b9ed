"""A strategy's token plan for one view of audio tokens: shared by the layers of a model and by features alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import add
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastadasp.contracts.token_plan import TokenPlan
from fastadasp.engine.autocast import without_autocast
from fastadasp.engine.spans import AudioSpans
from fastadasp.engine.view import LayerView
from fastadasp.errors import StrategyError

if TYPE_CHECKING:
    from fastadasp.recipes.recipe import Recipe


def check_text(
    strategy: Recipe,
    spans: AudioSpans,
    counts: Iterable[tuple[int, ...]],
    evicted: Iterable[tuple[int, ...]] = (),
) -> None:
    """Raises StrategyError if a prompt has no text but the strategy needs some, or is to take all of the audio.

    Args:
        spans: the prompts' clips.
        counts: what each layer takes from each clip.
        evicted: what goes from each layer's own cache, where other layers keep what they have.
    """
    if 0 not in spans.text:
        return
    sample = spans.samples[spans.text.index(0)]
    if "text" in strategy.needs():
        raise StrategyError(
            f"strategy {strategy.name!r} compares audio with text, but sample {sample} has no text tokens beside its "
            "audio"
        )
    if spans.tokens in (*_totals(counts), *evicted):
        raise StrategyError(
            f"strategy {strategy.name!r} lets all audio leave, but sample {sample} has no text tokens beside its "
            "audio, so nothing would be left"
        )


def _totals(counts: Iterable[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """What is gone of each clip after each layer."""
    gone: tuple[int, ...] = ()
    for layer in counts:
        gone = tuple(map(add, gone, layer)) if gone else layer
        yield gone


def note_scores(strategy: Recipe, layer: LayerView) -> None:
    """Asks the scorer where nothing goes: it may carry something (`LayerView.carry`) for the next time."""
    with without_autocast(layer.valid.device):
        strategy.select.importance(layer)


def plan_of(strategy: Recipe, layer: LayerView) -> TokenPlan:
    """What becomes of each audio token: the strategy's scores, handed to its merger.

    Args:
        strategy: whose scorers and merger are asked.
        layer: the audio tokens, with the counts to remove (`LayerView.remove`).

    Raises:
        StrategyError: the merger gave a plan of another shape than [clips, audio tokens].
    """
    if layer.removals is not None and layer.removals == layer.tokens:  # nobody has to choose
        return TokenPlan(torch.full_like(layer.valid, -1, dtype=torch.int64), merges=False)
    with without_autocast(layer.valid.device):
        plan = _asked(strategy, layer)
    merger = strategy.merger
    if plan.shares and strategy.site != "input":
        raise StrategyError(f"merger {merger.name!r} makes sums, which stand at the site input alone")
    if plan.cluster.shape != layer.valid.shape:
        raise StrategyError(
            f"merger {merger.name!r} gave a plan of shape {tuple(plan.cluster.shape)}, "
            f"not {tuple(layer.valid.shape)} (clips, audio tokens)"
        )
    return plan


def _asked(strategy: Recipe, layer: LayerView) -> TokenPlan:
    """The merger's plan by the scorers' scores."""
    merger = strategy.merger
    if merger.reads == "affinity":
        pairs = layer.valid[:, 1:]
        select = strategy.select.affinity(layer).masked_fill(~pairs, float("-inf"))
    else:
        select = strategy.select.importance(layer).masked_fill(~layer.valid, float("inf"))
    weight = strategy.weight.importance(layer) if strategy.weight is not None else None
    remove: Tensor = layer.remove  # type: ignore[assignment]  # the engine's views have it
    return merger.plan(layer, select, weight, remove)
