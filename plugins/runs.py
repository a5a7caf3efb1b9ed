"""Runs: neighbours that join form clusters of any length (FastAdaSP's merge)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_joins, largest

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class Runs(Merger):
    """The k pairs (i, i+1) with the largest affinity join; each maximal run of joined neighbours becomes one token.

    h'_c = sum_{j in c} w_j h_j / sum_{j in c} w_j; exactly k tokens go. Source: Lu et al., FastAdaSP, EMNLP 2024,
    released code (``merge_weighted``; ``merge_ave`` with uniform weights).

    With a `threshold` only pairs whose affinity is at least that join, so as many tokens go as are alike enough, and
    the budget is the most that may go: silence and slow speech lose more than fast speech, which is how Affinity
    Pooling (Xiang et al., Findings of ACL 2026) counts.
    """

    name = "runs"
    summary = "weighted mean of each maximal run of joined neighbours"
    formula = "join the k pairs (i, i+1) with the largest s_i; h'_c = Σ_{j∈c} w_j h_j / Σ_{j∈c} w_j"
    source = "released code (`merge_weighted`; `merge_ave` with `uniform` weights)"
    cost = "a sort of N scores and one weighted sum over N D"
    reads = "affinity"
    needs = frozenset({"order"})
    threshold_field = "threshold"

    threshold: float | None = Field(
        default=None, ge=-1, le=1, description="if given, only pairs at least this alike join, k of them at most"
    )

    def is_exact(self) -> bool:
        return self.threshold is None

    def multiply_adds(self, work: Workload) -> int:
        return work.means()

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        joined = largest(select, remove)
        if self.threshold is not None:
            joined = joined & (select >= self.threshold)
        return TokenPlan(clusters_from_joins(joined, layer.valid), weight)
