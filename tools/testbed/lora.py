"""LoRA in training: low-rank changes beside frozen projections (Hu et al., ICLR 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoRALinear(nn.Module):
    """W x + scale * B A x; W is frozen, B begins at zero."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.base, self.scale, self.dropout = base, scale, dropout
        self.A = nn.Parameter(torch.empty(rank, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        low = functional.dropout(x, self.dropout, self.training) @ self.A.T.to(x.dtype)
        return y + self.scale * (low @ self.B.T.to(x.dtype))


def add_lora(layers: nn.ModuleList, rank: int, scale: float, dropout: float = 0.0) -> dict[str, nn.Parameter]:
    """Puts a LoRA beside every projection of the decoder's layers; its parameters under an adapter's names."""
    named: dict[str, nn.Parameter] = {}
    for number, layer in enumerate(layers):
        for path, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear) and path.rsplit(".", 1)[-1] in PROJECTIONS:
                wrapped = LoRALinear(module, rank, scale, dropout)
                parent, _, name = path.rpartition(".")
                setattr(layer.get_submodule(parent), name, wrapped)
                named |= {f"lora.layers.{number}.{path}.{x}": getattr(wrapped, x) for x in "AB"}
    return named
