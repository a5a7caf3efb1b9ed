"""A strategy's token plan for one view of audio tokens: shared by the layers of a model and by features alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from fastadasp.engine.view import LayerView
from fastadasp.errors import StrategyError

if TYPE_CHECKING:
    from fastadasp.contracts.token_plan import TokenPlan
    from fastadasp.recipes.recipe import Recipe


def plan_of(strategy: Recipe, layer: LayerView) -> TokenPlan:
    """What becomes of each audio token: the strategy's scores, handed to its merger.

    Args:
        strategy: whose scorers and merger are asked.
        layer: the audio tokens, with the counts to remove (`LayerView.remove`).

    Raises:
        StrategyError: the merger gave a plan of another shape than [clips, audio tokens].
    """
    merger = strategy.merger
    if merger.reads == "affinity":
        pairs = layer.valid[:, 1:]
        select = strategy.select.affinity(layer).masked_fill(~pairs, float("-inf"))
    else:
        select = strategy.select.importance(layer).masked_fill(~layer.valid, float("inf"))
    weight = strategy.weight.importance(layer) if strategy.weight is not None else None
    remove: Tensor = layer.remove  # type: ignore[assignment]  # the engine's views have it
    plan = merger.plan(layer, select, weight, remove)
    if plan.cluster.shape != layer.valid.shape:
        raise StrategyError(
            f"merger {merger.name!r} gave a plan of shape {tuple(plan.cluster.shape)}, "
            f"not {tuple(layer.valid.shape)} (clips, audio tokens)"
        )
    return plan
