"""Energy: tokens in large groups of alike ones are worth least (PiToMe)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView
    from fastadasp.contracts.components import Need, ScoreKind

BLOCK = 64
"""Tokens that all others are compared with at once: no N x N matrix is made."""


class Energy(Scorer):
    """-E_j, with E_j = (1 / n) sum over the clip's n tokens i of f(cosine(K_i, K_j)).

    f(x) = x from the margin m on, and `alpha` (exp(x - m) - 1) below it; m falls from 0.9 at the first layer to 0 at
    the end of the decoder. K are the keys, heads concatenated.

    Source: Tran et al., "Accelerating Transformers with Spectrum-Preserving Token Merging" (PiToMe), NeurIPS 2024.
    """

    name: ClassVar[str] = "energy"
    summary: ClassVar[str] = "minus the mean similarity to the clip's tokens, cut off below a margin"
    gives: ClassVar[tuple[ScoreKind, ...]] = ("importance",)
    needs: ClassVar[frozenset[Need]] = frozenset({"attention"})

    alpha: float = Field(default=1.0, ge=0)

    def importance(self, layer: LayerView) -> Tensor:
        """Energies below 1, negated: float32 [clips, N]."""
        import torch

        from fastadasp.ops import unit_vectors

        unit, real = unit_vectors(layer.keys), layer.valid.float()
        margin = 0.9 * (1 - layer.layer_index / layer.num_layers)
        energy = torch.zeros_like(real)
        for begin in range(0, unit.shape[1], BLOCK):
            block = slice(begin, begin + BLOCK)
            cosine = unit @ unit[:, block].transpose(1, 2)
            shaped = cosine.where(cosine >= margin, self.alpha * torch.expm1(cosine - margin))
            energy += (shaped * real[:, None, block]).sum(-1)
        return -energy / real.sum(1, keepdim=True)
