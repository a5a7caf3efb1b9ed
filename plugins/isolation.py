"""Isolation: how far a token is from the one most like it (where DivPrune starts)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp import Scorer
from fastadasp.ops import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView


class Isolation(Scorer):
    """1 - max over the clip's other tokens i of cosine(h_j, h_i), with h the hidden states.

    Source: the first pick of Alvar et al., DivPrune, CVPR 2025. Streamed over blocks of tokens: time grows with the
    square of the clip's length, memory does not. A token alone in its clip gets 2.
    """

    name = "isolation"
    summary = "cosine distance to the most alike other token"
    formula = "u_j = 1 - max over i ≠ j of cosine(h_i, h_j)"
    source = "first pick of DivPrune (Alvar et al., CVPR 2025)"
    cost = "N² D for all cosines, in blocks that are not kept"
    gives = ("importance",)

    def importance(self, layer: LayerView) -> Tensor:
        """Distances in [0, 2], float32 [clips, N]."""
        return 1 - nearest(layer.hidden, layer.valid)[1].clamp_min(-1)
