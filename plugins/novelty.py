"""Novelty: how much a token differs from the one before it (EVS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp import Scorer
from fastadasp.ops import cosine_to_next

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class Novelty(Scorer):
    """e_j = 1 - cosine(h_{j-1}, h_j); the clip's first token gets 3, more than any other can.

    Source: NVIDIA's Efficient Video Sampling (EVS), as vLLM and SGLang ship it for video. There a token is compared
    with the one at the same place of the frame before, and the whole first frame stays. Sound has one token a moment,
    so the frame before is the token before.
    """

    name = "novelty"
    summary = "cosine distance to the token before"
    formula = "e_j = 1 - cosine(h_{j-1}, h_j); e_1 = 3"
    source = "EVS, as vLLM and SGLang ship it for video"
    cost = "N D for the cosines"
    gives = ("importance",)
    needs = frozenset({"order"})

    def multiply_adds(self, work: Workload) -> int:
        return work.cosines(work.tokens - 1, work.hidden)

    def importance(self, layer: LayerView) -> Tensor:
        """Distances in [0, 2], 3 for the first token, float32 [clips, N]."""
        import torch

        return torch.nn.functional.pad(1 - cosine_to_next(layer.hidden), (1, 0), value=3.0)
