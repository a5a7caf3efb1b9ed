"""Key similarity: how alike the keys of neighbouring audio tokens are (FastAdaSP, `paper` section 3; released code)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class KeySimilarity(Scorer):
    """s_i = cosine(K_i, K_{i+1}), with K the keys after rotary embedding, all key/value heads concatenated.

    Source: Lu et al., FastAdaSP, EMNLP 2024, as in the authors' released code. ToMe (Bolya et al., ICLR 2023) takes the
    mean over heads instead, and matches tokens across the whole sequence.
    """

    name = "key-similarity"
    summary = "cosine of neighbouring keys after rotary embedding, heads concatenated"
    formula = "s_i = cosine(K_i, K_{i+1})"
    source = "released code"
    cost = "N d_K for the cosines of neighbouring keys"
    gives = ("affinity",)
    absolute = True
    needs = frozenset({"attention", "order"})

    def multiply_adds(self, work: Workload) -> int:
        return work.cosine_to_next_key()

    def affinity(self, layer: LayerView) -> Tensor:
        """Cosines in [-1, 1], float32 [clips, N - 1]."""
        return layer.cosine_to_next_key()
