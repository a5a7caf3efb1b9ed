"""Drop: the least important tokens go (pruning)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastadasp import Merger, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, TokenPlan
    from fastadasp.contracts.components import Need, ScoreKind, Site


class Drop(Merger):
    """The k tokens with the smallest importance go; the others are untouched.

    With ``received-attention`` this is the released code's ``evict``, which the FastAdaSP paper's tables call FastV.
    A clip always keeps one token.
    """

    name: ClassVar[str] = "drop"
    summary: ClassVar[str] = "removes the least important tokens"
    reads: ClassVar[ScoreKind] = "importance"
    uses_weight: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset()
    sites: ClassVar[tuple[Site, ...]] = ("input", "block", "cache")

    def capacity(self, tokens: int) -> int:
        return max(tokens - 1, 0)

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        from fastadasp import TokenPlan
        from fastadasp.ops import clusters_from_kept, smallest

        return TokenPlan(clusters_from_kept(layer.valid & ~smallest(select, remove)), merges=False)


@hookimpl
def fastadasp_mergers() -> list[type[Merger]]:
    return [Drop]
