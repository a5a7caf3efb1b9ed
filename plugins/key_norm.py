"""Key norm: how long a token's key is (DART's choice of pivots), or how short (Knorm)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class KeyNorm(Scorer):
    """|K_j|, with K the keys after rotary embedding, all key/value heads concatenated; L2 norm or L1 norm.

    With `prefer` = ``short`` it is -|K_j|: at the site ``cache``, where each head has keys of its own, that is Knorm
    (Devoto et al., "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression", EMNLP 2024).

    Source: Wen et al., DART ("Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters
    More"), EMNLP 2025, whose pivots are the tokens with the largest L1 norm (``order = 1``). The default differs since
    rotary embedding leaves the L2 norm alone; the L1 norm depends on where in the prompt the clip stands. Decoders that
    normalise their keys (Qwen3 and its kin) leave L2 norms with little to say: they differ by the norm's weights alone.
    """

    name = "key-norm"
    summary = "norm of the key, heads concatenated"
    formula = "p_j = ‖K_j‖"
    source = 'DART (Wen et al., EMNLP 2025), which takes the L1 norm; with "short" Knorm (Devoto et al., EMNLP 2024)'
    cost = "N d_K"
    gives = ("importance",)
    needs = frozenset({"attention"})

    order: Literal[1, 2] = Field(
        default=2, description="1 for the L1 norm, which rotary embedding makes depend on the position"
    )
    prefer: Literal["long", "short"] = Field(default="long", description='or "short": what counts is -p_j')

    def multiply_adds(self, work: Workload) -> int:
        return work.tokens * work.key_width

    def importance(self, layer: LayerView) -> Tensor:
        """Norms, negative ones if short keys are preferred, float32 [clips, N]."""
        norm: Tensor = layer.keys.flatten(2).float().norm(p=self.order, dim=-1)
        return norm if self.prefer == "long" else -norm
