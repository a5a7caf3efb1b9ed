"""Runs: neighbours that join form clusters of any length (FastAdaSP's merge)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastadasp import Merger, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, TokenPlan
    from fastadasp.contracts.components import Need, ScoreKind, Site


class Runs(Merger):
    """The k pairs (i, i+1) with the largest affinity join; each maximal run of joined neighbours becomes one token.

    h'_c = sum_{j in c} w_j h_j / sum_{j in c} w_j; exactly k tokens go. Source: Lu et al., FastAdaSP, EMNLP 2024,
    released code (``merge_weighted``; ``merge_ave`` with uniform weights).
    """

    name: ClassVar[str] = "runs"
    summary: ClassVar[str] = "weighted mean of each maximal run of joined neighbours"
    reads: ClassVar[ScoreKind] = "affinity"
    needs: ClassVar[frozenset[Need]] = frozenset({"order"})
    sites: ClassVar[tuple[Site, ...]] = ("input", "block")

    def capacity(self, tokens: int) -> int:
        return max(tokens - 1, 0)

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        from fastadasp import TokenPlan
        from fastadasp.ops import clusters_from_joins, largest

        return TokenPlan(clusters_from_joins(largest(select, remove), layer.valid), weight)


@hookimpl
def fastadasp_mergers() -> list[type[Merger]]:
    return [Runs]
