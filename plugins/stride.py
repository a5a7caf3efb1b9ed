"""Stride: tokens at even distances matter, whatever they hold; with their neighbours up to the next they are pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp import Scorer
from fastadasp.ops import evenly_spaced

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class Stride(Scorer):
    """1 for the tokens that divide the clip as evenly as the layer's count allows, 0 for the others.

    With n tokens of which m stay they are floor(t n / m), t = 0...m - 1: every other token at one half, every third at
    two thirds, and gaps of two neighbouring lengths in between. The baseline nobody may leave out. Where it is not
    known how many go (`LayerView.remove` is None), 1 minus the binary radical inverse of the token's place: its largest
    entries are spread evenly for every count, exactly so for one half, one quarter, one eighth.

    As an affinity, pair (i, i + 1) has 1 minus the score of i + 1: with the merger ``runs`` the clip falls into m runs
    of nearly equal length, so their means are average pooling (every two tokens at one half, every three at two
    thirds).
    """

    name = "stride"
    summary = "tokens at even distances, or pools of equal length"
    formula = "s_j = 1 for j in {⌊t n / m⌋ : t = 0…m-1}, else 0; m = n - k"
    source = "baseline"
    gives = ("importance", "affinity")
    needs = frozenset({"order"})

    def multiply_adds(self, work: Workload) -> int:
        return 0

    def importance(self, layer: LayerView) -> Tensor:
        """Scores in [0, 1], float32 [clips, N]."""
        import torch

        steps = torch.arange(layer.valid.shape[1], device=layer.valid.device).expand_as(layer.valid)
        if layer.remove is not None:
            total = layer.valid.sum(1)
            return (evenly_spaced(steps, total, total - layer.remove) & layer.valid).float()
        score = torch.ones_like(steps, dtype=torch.float32)
        for bit in range(layer.valid.shape[1].bit_length()):
            score = score - ((steps >> bit) & 1) / 2 ** (bit + 1)
        return score

    def affinity(self, layer: LayerView) -> Tensor:
        """0 where a pool ends, 1 inside (numbers between where the count is not known), float32 [clips, N - 1]."""
        return 1 - self.importance(layer)[:, 1:]
