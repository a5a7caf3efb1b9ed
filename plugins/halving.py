"""Halving: the most alike neighbours join, again and again, until the length fits (FastLongSpeech)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_joins, cosine_to_next, group_means, largest

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class Halving(Merger):
    """In rounds, the most alike neighbours join until half of the tokens are left, or as many as shall stay.

    From n tokens a round goes to max(floor(n / 2), m), m being the tokens that stay: the pairs (i, i+1) with the
    largest affinity join, and each maximal run of joined neighbours becomes its weighted mean. The first round goes by
    the recipe's ``select``, each later one by the cosine of the neighbouring means. Exactly k tokens go.

    Source: Guo et al., FastLongSpeech, NeurIPS 2025 (iterative fusion), and the authors' code. What differs: their
    weight of a token is one minus the probability of blank of a CTC decoder trained for it, asked anew in each round;
    here it is the recipe's ``weight``, asked once. Down to one half, this is ``runs``.
    """

    name = "halving"
    summary = "the most alike neighbours join, halving the length in rounds"
    formula = "rounds n → max(⌊n / 2⌋, m): the pairs with the largest s_i join; s_i anew: cosine of neighbouring means"
    source = "FastLongSpeech (Guo et al., NeurIPS 2025)"
    cost = "log2 (n / m) rounds that follow one another, each N D for means and cosines"
    reads = "affinity"
    needs = frozenset({"order"})

    def multiply_adds(self, work: Workload) -> int:
        share = -(-work.tokens // work.kept) if work.kept else 1
        later = max((share - 1).bit_length() - 1, 0)  # the first round has the scorer's affinities
        return later * 3 * work.tokens * work.hidden + work.means()

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        import torch

        valid, hidden, affinity = layer.valid, layer.hidden.float(), select
        width = valid.shape[1]
        steps = torch.arange(width, device=valid.device).expand_as(valid)
        group, left = steps.where(valid, width), valid.sum(1)
        goal, counts = left - remove, valid.float() if weight is None else weight.float()
        for turn in range(_rounds(layer)):
            if turn:
                affinity = cosine_to_next(group_means(hidden, counts, group)[:, :width])
                affinity = affinity.masked_fill(steps[:, 1:] >= left.unsqueeze(1), float("-inf"))
            after = (left // 2).maximum(goal)
            number = clusters_from_joins(largest(affinity, left - after), steps < left.unsqueeze(1))
            group, left = number.gather(1, group.clamp_max(width - 1)).where(valid, width), after
        return TokenPlan(group.masked_fill(~valid, -1), weight)


def _rounds(layer: LayerView) -> int:
    """As many as the clip with the most to do needs; as many as any could need if it is not known how many go."""
    if layer.removals is None:
        return max(layer.tokens, default=0).bit_length()
    shares = [-(-n // (n - k)) for n, k in zip(layer.tokens, layer.removals, strict=True) if n > k > 0]
    return max((share - 1 for share in shares), default=0).bit_length()
