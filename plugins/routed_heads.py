"""Routed heads: what text attends to, by the heads that look at the sound (HeadRouter)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class RoutedHeads(Scorer):
    """s_j = sum over heads g of w_g a_gj / sum_j a_gj, with a_gj the mean over text tokens i of A[g, i, j].

    Heads are weighted by clip: w_g is in proportion to m_g c_g. m_g = sum_j a_gj is how much of its attention the
    head's text gives to the clip (semantic), and c_g = 1 - H(a_g) / log n, with H the entropy of a_g over the clip's n
    tokens, is how sharply it picks among them (acoustic). A head that looks elsewhere, or everywhere alike, has no say.

    Source: HeadRouter, arXiv 2604.23717, after its abstract: attention of text to audio by head, heads weighted by
    sample from a semantic and an acoustic profile. How these profiles become weights is ours.
    """

    name = "routed-heads"
    summary = "attention of text to audio, heads weighted by clip"
    formula = (
        "s_j = Σ_g w_g a_gj / m_g; a_gj = mean over text i of A[g, i, j]; m_g = Σ_j a_gj; w_g ∝ m_g (1 - "
        "entropy(a_g) / log n)"
    )
    source = "HeadRouter (arXiv 2604.23717), after its abstract"
    cost = "H M T d for the rows of attention of M text tokens"
    gives = ("importance",)
    needs = frozenset({"attention", "text"})

    def multiply_adds(self, work: Workload) -> int:
        return work.attention_rows(work.text)

    def importance(self, layer: LayerView) -> Tensor:
        """Shares that add up to 1 in each clip, float32 [clips, N]."""
        import torch

        received = layer.text_attention(asker=f"scorer {self.name!r}") * layer.valid.unsqueeze(1)
        mass = received.sum(-1)
        share = received / mass.unsqueeze(-1).clamp_min(1e-30)
        entropy = torch.special.entr(share).sum(-1)
        most = layer.valid.sum(1, keepdim=True).clamp_min(2).log()
        weight = mass * (1 - entropy / most).clamp_min(0)
        weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-30)
        scores: Tensor = (share * weight.unsqueeze(-1)).sum(1)
        return scores
