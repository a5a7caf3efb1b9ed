"""Drop: the least important tokens go (pruning)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_kept, smallest

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class Drop(Merger):
    """The k tokens with the smallest importance go; the others are untouched.

    With ``received-attention`` this is the released code's ``evict``, which the FastAdaSP paper's tables call FastV.
    A clip always keeps one token.
    """

    name = "drop"
    summary = "removes the least important tokens"
    formula = "the k tokens with the smallest score go"
    source = "released code (`evicit`, which the paper's tables call FastV)"
    cost = "a sort of N scores and a gather"
    reads = "importance"
    uses_weight = False
    sites = ("input", "block", "cache")

    def multiply_adds(self, work: Workload) -> int:
        return 0

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        return TokenPlan(clusters_from_kept(layer.valid & ~smallest(select, remove)), merges=False)
