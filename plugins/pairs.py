"""Pairs: disjoint neighbours become their mean (A-ToMe)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fastadasp import Merger, TokenPlan
from fastadasp.ops import alternate_in_runs, clusters_from_joins, rank_descending

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class Pairs(Merger):
    """Disjoint pairs (i, i+1), found by a walk from left to right over the most alike pairs; each becomes its mean.

    ``overlap = "fill"`` (default): the walk goes over the fewest most alike pairs that yield k disjoint ones, so
    exactly k tokens go. ``overlap = "skip"``: the walk goes over the k most alike pairs and those that overlap a pair
    already taken are lost, so fewer than k go: A-ToMe (Li et al., Interspeech 2023) as FastAdaSP's released code has
    it. At most half of a clip's tokens can go in one layer.
    """

    name = "pairs"
    summary = "mean of disjoint neighbouring pairs, walking left to right"
    formula = "from left to right, disjoint pairs (i, i+1) among the largest s_i; h' = (h_i + h_{i+1}) / 2"
    source = 'A-ToMe (Li et al., Interspeech 2023); released code (`atome`) with `overlap = "skip"`'
    cost = "a sort, log N walks over marked pairs, and one sum over N D"
    reads = "affinity"
    needs = frozenset({"order"})

    overlap: Literal["fill", "skip"] = Field(
        default="fill",
        description='"fill" takes as many pairs as k needs; "skip" takes of the k most alike those that do not overlap',
    )

    def is_exact(self) -> bool:
        return self.overlap == "fill"

    def capacity(self, tokens: int) -> int:
        return tokens // 2 if self.overlap == "fill" else max(tokens - 1, 0)

    def multiply_adds(self, work: Workload) -> int:
        return work.means()

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        ranks = rank_descending(select)
        marks = remove if self.overlap == "skip" else self._marks_for(ranks, layer.valid, remove)
        taken = alternate_in_runs((ranks < marks.unsqueeze(1)) & layer.valid[:, 1:])
        return TokenPlan(clusters_from_joins(taken, layer.valid), weight)

    def _marks_for(self, ranks: Tensor, valid: Tensor, remove: Tensor) -> Tensor:
        """How many top pairs to mark so that the walk takes exactly `remove` of them: int64 [clips].

        One more mark adds one taken pair or none (it joins runs of lengths a and b into one of a + b + 1), so the count
        rises step by step and bisection finds it.
        """
        low, high = remove.clone(), valid.sum(1) - 1
        high = high.clamp_min(0).maximum(low)
        for _ in range(max(ranks.shape[1], 1).bit_length()):
            middle = (low + high) // 2
            taken = alternate_in_runs((ranks < middle.unsqueeze(1)) & valid[:, 1:]).sum(1)
            enough = taken >= remove
            high = middle.where(enough, high)
            low = low.where(enough, middle + 1).minimum(high)
        return high
