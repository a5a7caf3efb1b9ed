"""Plain components that stand beside the one that is checked, so that no check depends on what is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastadasp.contracts.components import LayerSelector, Merger, Schedule, ScoreKind, Scorer
from fastadasp.strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp.contracts.token_plan import TokenPlan
    from fastadasp.engine.view import LayerView


class PlainScorer(Scorer):
    """The norm of the hidden state."""

    name: ClassVar[str] = "testing-norm"
    gives: ClassVar[tuple[ScoreKind, ...]] = ("importance",)

    def importance(self, layer: LayerView) -> Tensor:
        norm: Tensor = layer.hidden.float().norm(dim=-1)
        return norm


class PlainMerger(Merger):
    """The tokens with the smallest scores go."""

    name: ClassVar[str] = "testing-drop"
    reads: ClassVar[ScoreKind] = "importance"
    uses_weight: ClassVar[bool] = False

    def capacity(self, tokens: int) -> int:
        return max(tokens - 1, 0)

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        from fastadasp.contracts.token_plan import TokenPlan
        from fastadasp.ops import clusters_from_kept, smallest

        return TokenPlan(clusters_from_kept(layer.valid & ~smallest(select, remove)), merges=False)


class PlainSchedule(Schedule):
    """Everything at the start layer."""

    name: ClassVar[str] = "testing-once"

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        return tuple(ratio if layer == start else 0.0 for layer in range(num_layers))


class PlainSelector(LayerSelector):
    """Layer 1."""

    name: ClassVar[str] = "testing-first"

    def start_layer(self, num_layers: int) -> int:
        return min(1, num_layers - 1)


def plain_strategy() -> Strategy:
    """A strategy of these parts."""
    parts = {"select": PlainScorer(), "merger": PlainMerger(), "schedule": PlainSchedule(), "layers": PlainSelector()}
    return Strategy(name="testing", **parts)  # type: ignore[arg-type]
