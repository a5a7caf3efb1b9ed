"""Drop by head: heads that look at the sound more keep more of it (AudioKV)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_kept, largest, rank_descending

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class DropByHead(Merger):
    """Each head keeps a share of the layer's budget by how important all of the clip is to it, and there the best keys.

    With H heads that keep m keys on average, head g keeps `even` m + (1 - `even`) H m w_g / sum w, where w_g is the sum
    of its importances, at least one key and at most all. Whole numbers are found by largest remainder, and what a head
    cannot hold goes to the others. Exactly H k go from all heads together.

    Source: AudioKV, arXiv 2604.06694, after its abstract: budgets by head from attention to audio. That a part of the
    budget is shared equally is ours. Memory follows the longest head (``drop-across-heads``).
    """

    name = "drop-by-head"
    summary = "removes the least important keys, fewer in heads that look at the sound"
    formula = "head g keeps its best even · m + (1 - even) · H m w_g / Σ w; w_g = Σ_j s_gj; m = n - k"
    source = "AudioKV (arXiv 2604.06694), after its abstract"
    cost = "two sorts of N scores a head and a gather"
    reads = "importance"
    uses_weight = False
    across_heads = True
    sites = ("cache",)

    even: float = Field(default=0.5, ge=0, le=1, description="share of the budget that all heads have alike")

    def multiply_adds(self, work: Workload) -> int:
        return 0

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        valid, heads = layer.valid, layer.heads
        total = (valid.sum(1) - remove).view(-1, heads).sum(1, keepdim=True)
        mass = select.masked_fill(~valid, 0.0).double().clamp_min(0).sum(1).view(-1, heads)
        whole = mass.sum(1, keepdim=True)
        share = (mass / whole.clamp_min(1e-30)).where(whole > 0, 1 / heads)
        budget = self.even * total / heads + (1 - self.even) * total * share
        # A key's claim is its head's budget minus its rank there: the largest claims are the largest remainders.
        rank = rank_descending(select.masked_fill(~valid, float("-inf"))).double()
        claim = (budget.view(-1, 1) - rank).masked_fill(rank == 0, float("inf")).masked_fill(~valid, float("-inf"))
        kept = largest(claim.view(len(total), -1), total.squeeze(1)).view_as(valid)
        return TokenPlan(clusters_from_kept(valid & kept), merges=False)
