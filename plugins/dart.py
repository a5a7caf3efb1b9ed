"""DART: what duplicates a few pivots goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_kept, rank_descending, smallest, unit_vectors

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class Dart(Merger):
    """A few pivots stay, and with each pivot in turn the tokens least like it: duplicates of pivots go.

    Pivots are the ``pivots`` tokens with the largest importance (``key-norm`` in the paper's recipe). The rest of the
    tokens that stay is shared equally among them, one more for the first ones if it does not divide; a pivot takes
    those with the smallest cosine to it, by hidden state, that no other took before. Exactly k tokens go.

    Source: Wen et al., DART, EMNLP 2025, and the authors' code. What differs: pivots are audio tokens alone (the code
    adds as many of the text), and hidden states are those after attention instead of after the final norm.
    The loop over pivots has a fixed few rounds.
    """

    name = "dart"
    summary = "keeps pivots and the tokens least like them"
    formula = (
        "pivots P: the largest scores; each pivot p keeps (m - |P|) / |P| tokens with the smallest cosine(h_p, h_j)"
    )
    source = "DART (Wen et al., EMNLP 2025)"
    cost = "one cosine to all N tokens a pivot, |P| N D"
    reads = "importance"
    uses_weight = False

    pivots: int = Field(default=4, ge=1, le=64, description="how many pivots")

    def multiply_adds(self, work: Workload) -> int:
        return work.cosines(min(self.pivots, work.tokens) * work.tokens, work.hidden)

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        valid, unit = layer.valid, unit_vectors(layer.hidden)
        kept = valid.sum(1) - remove
        pivots = kept.clamp_max(self.pivots)
        rank = rank_descending(select.masked_fill(~valid, float("-inf")))
        places = rank.argsort(dim=1)
        chosen = valid & (rank < pivots.unsqueeze(1))
        each, over = (kept - pivots) // pivots.clamp_min(1), (kept - pivots) % pivots.clamp_min(1)
        for turn in range(min(self.pivots, valid.shape[1])):
            pivot = unit.gather(1, places[:, turn, None, None].expand(-1, 1, unit.shape[-1]))
            cosine = (unit * pivot).sum(-1).masked_fill(chosen | ~valid, float("inf"))
            takes = (each + (turn < over)).where(turn < pivots, 0)
            chosen = chosen | smallest(cosine, takes)
        return TokenPlan(clusters_from_kept(chosen), merges=False)
