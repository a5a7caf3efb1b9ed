"""DivPrune: the tokens that stay are as unlike each other as can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_kept, unit_vectors

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class DivPrune(Merger):
    """Farthest-point selection: the next token to stay is the one whose most alike chosen token is least alike.

    Distance is 1 - cosine of hidden states. The first is the token with the largest importance (``isolation`` in the
    paper's recipe). Exactly k tokens go.

    Source: Alvar et al., DivPrune, CVPR 2025, and the authors' code, which holds the N x N matrix of distances. Here
    only the distances to the newest choice are computed, so memory grows with N. Picks follow one another by
    definition: as many rounds as the longest clip keeps tokens, each over all clips and tokens at once and without
    waiting for the device; time grows with tokens x tokens kept.
    """

    name = "divprune"
    summary = "keeps tokens that are unlike each other (farthest points)"
    formula = "S ← S and {argmin over j of max over i∈S of cosine(h_i, h_j)}, until |S| = n - k"
    source = "DivPrune (Alvar et al., CVPR 2025)"
    cost = "m rounds that follow one another, m N D in all"
    reads = "importance"
    uses_weight = False

    def multiply_adds(self, work: Workload) -> int:
        return work.cosines(work.kept * work.tokens, work.hidden)

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        import torch

        valid, unit = layer.valid, unit_vectors(layer.hidden)
        kept = (valid.sum(1) - remove).unsqueeze(1)
        chosen = torch.zeros_like(valid)
        alike = -select.masked_fill(~valid, float("-inf")).float()
        for turn in range(layer.most_kept()):
            pick = alike.masked_fill(chosen | ~valid, float("inf")).argmin(1, keepdim=True)
            chosen.scatter_(1, pick, chosen.gather(1, pick) | (turn < kept))
            newest = unit.gather(1, pick.unsqueeze(-1).expand(-1, 1, unit.shape[-1]))
            cosine = torch.matmul(unit, newest.transpose(1, 2)).squeeze(-1)
            alike = cosine if turn == 0 else alike.maximum(cosine)
        return TokenPlan(clusters_from_kept(chosen & valid), merges=False)
