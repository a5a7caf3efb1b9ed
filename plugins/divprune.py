"""DivPrune: the tokens that stay are as unlike each other as can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastadasp import Merger, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, TokenPlan
    from fastadasp.contracts.components import Need, ScoreKind, Site


class DivPrune(Merger):
    """Farthest-point selection: the next token to stay is the one whose most alike chosen token is least alike.

    Distance is 1 - cosine of hidden states. The first is the token with the largest importance (``isolation`` in the
    paper's recipe). Exactly k tokens go.

    Source: Alvar et al., DivPrune, CVPR 2025, and the authors' code, which holds the N x N matrix of distances. Here
    only the distances to the newest choice are computed, so memory grows with N. Picks follow one another by
    definition: as many rounds as the longest clip keeps tokens, each over all clips and tokens at once and without
    waiting for the device; time grows with tokens x tokens kept.
    """

    name: ClassVar[str] = "divprune"
    summary: ClassVar[str] = "keeps tokens that are unlike each other (farthest points)"
    reads: ClassVar[ScoreKind] = "importance"
    uses_weight: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset()
    sites: ClassVar[tuple[Site, ...]] = ("input", "block")

    def capacity(self, tokens: int) -> int:
        return max(tokens - 1, 0)

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        import torch

        from fastadasp import TokenPlan
        from fastadasp.ops import clusters_from_kept, unit_vectors

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


@hookimpl
def fastadasp_mergers() -> list[type[Merger]]:
    return [DivPrune]
