"""Fuse: the least important tokens become one (EViT)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastadasp import Merger

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, TokenPlan
    from fastadasp.contracts.components import ScoreKind


class Fuse(Merger):
    """The k + 1 tokens with the smallest importance become their weighted mean; the others are untouched.

    Exactly k tokens go. The fused token stands where the first of its members stood.

    Source: Liang et al., "Not All Patches are What You Need: Expediting Vision Transformers via Token Reorganizations"
    (EViT), ICLR 2022, which weighs the members by the attention they get.
    """

    name: ClassVar[str] = "fuse"
    summary: ClassVar[str] = "weighted mean of the least important tokens"
    reads: ClassVar[ScoreKind] = "importance"

    def capacity(self, tokens: int) -> int:
        return max(tokens - 1, 0)

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        import torch

        from fastadasp import TokenPlan
        from fastadasp.ops import clusters_from_leaders, smallest

        fused = layer.valid & smallest(select, remove + 1) & (remove > 0).unsqueeze(1)
        places = torch.arange(fused.shape[1], device=fused.device).expand_as(select)
        first = fused.int().argmax(1, keepdim=True)  # of equals the first
        return TokenPlan(clusters_from_leaders(first.where(fused, places), layer.valid), weight)
