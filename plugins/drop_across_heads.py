"""Drop across heads: the heads of a layer share one budget (AdaKV)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_kept, largest, smallest

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class DropAcrossHeads(Merger):
    """Of all keys that a clip has in the heads of a layer, the least important go, wherever they are.

    With m keys to keep a head on average, each head first keeps its best max(1, floor(m `safe`)) in any case; of the
    rest those with the smallest importance go, until H k are gone from the H heads. A head may keep all that it has.

    Source: Feng et al., Ada-KV, 2024, as NVIDIA's kvpress has it. Heads keep different numbers, so the tensors of a
    layer are as wide as its longest head and a mask hides the rest: memory follows the longest head, not the mean.
    """

    name = "drop-across-heads"
    summary = "removes the least important keys of all heads of a layer together"
    formula = "of all heads' keys the H k with the smallest score go; each head's best max(1, ⌊(n - k) safe⌋) stay"
    source = "AdaKV (Feng et al., 2024), as in kvpress"
    cost = "two sorts of N scores a head and a gather"
    reads = "importance"
    uses_weight = False
    across_heads = True
    sites = ("cache",)

    safe: float = Field(default=0.2, ge=0, le=1, description="share of its mean budget that each head has in any case")

    def multiply_adds(self, work: Workload) -> int:
        return 0

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        valid, rows = layer.valid, layer.valid.shape[0] // layer.heads
        held = valid.sum(1)  # while an answer grows, heads hold different numbers already
        mean = (held - remove).view(rows, -1).sum(1) // layer.heads
        own = (mean.double() * self.safe).floor().long().clamp_min(1).repeat_interleave(layer.heads).minimum(held)
        safe = largest(select.masked_fill(~valid, float("-inf")), own)
        pooled = select.float().masked_fill(safe | ~valid, float("inf")).view(rows, -1)
        gone = smallest(pooled, remove.view(rows, -1).sum(1)).view_as(valid)
        return TokenPlan(clusters_from_kept(valid & ~gone), merges=False)
