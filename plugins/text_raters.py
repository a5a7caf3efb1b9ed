"""Text raters: what the words that are about the sound attend to (SparseVLM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload

BLOCK = 64
"""Audio tokens that the text is compared with at once."""


class TextRaters(Scorer):
    """s_j = mean over heads and raters i of the attention A[head, i, j].

    Raters are the prompt's text tokens that matter to the sound: with p_ji the softmax over the text tokens i of
    h_j . h_i, those whose mean of p_ji over the audio tokens j is at least the mean over all text tokens. Text before a
    clip cannot attend to it.

    Source: Zhang et al., SparseVLM, ICML 2025, and the authors' code. What differs: raters are chosen at the acting
    layer (theirs once, from embeddings before the decoder), and what goes is gone: the authors put a part of it back as
    means.
    """

    name = "text-raters"
    summary = "attention of the text tokens that matter to the sound"
    formula = (
        "s_j = mean over heads and raters i of A[head, i, j]; raters: text tokens i with mean_j "
        "softmax_i(h_j · h_i) ≥ its mean over i"
    )
    source = "SparseVLM (Zhang et al., ICML 2025)"
    cost = "H M T d for the rows of attention of M text tokens; N M D to find the raters"
    gives = ("importance",)
    needs = frozenset({"attention", "text"})

    def multiply_adds(self, work: Workload) -> int:
        return work.attention_rows(work.text) + work.text * work.tokens * work.hidden

    def importance(self, layer: LayerView) -> Tensor:
        """Mean attention weights in [0, 1], float32 [clips, N]."""
        asker = f"scorer {self.name!r}"
        relevance, real = self._relevance(layer, asker)
        mean = relevance.sum(1, keepdim=True) / real.sum(1, keepdim=True)
        raters = real & (relevance >= mean * (1 - 1e-6))
        return layer.text_attention(raters.float(), asker).mean(1)

    def _relevance(self, layer: LayerView, asker: str) -> tuple[Tensor, Tensor]:
        """How much each text token matters to the clip, float32 [clips, M], 0 for padding; and which are no padding."""
        text, real = layer.text(asker)
        text, audio = text.float(), layer.hidden.float()
        total = text.new_zeros(real.shape)
        for begin in range(0, audio.shape[1], BLOCK):
            block = slice(begin, begin + BLOCK)
            logits = (audio[:, block] @ text.transpose(1, 2)).masked_fill(~real.unsqueeze(1), float("-inf"))
            total = total + (logits.softmax(-1) * layer.valid[:, block, None]).sum(1)
        return total / layer.valid.sum(1, keepdim=True), real
