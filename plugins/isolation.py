"""Isolation: how far a token is from the one most like it (where DivPrune starts)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastadasp import Scorer, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView
    from fastadasp.contracts.components import Need, ScoreKind


class Isolation(Scorer):
    """1 - max over the clip's other tokens i of cosine(h_j, h_i), with h the hidden states.

    Source: the first pick of Alvar et al., DivPrune, CVPR 2025. Streamed over blocks of tokens: time grows with the
    square of the clip's length, memory does not. A token alone in its clip gets 2.
    """

    name: ClassVar[str] = "isolation"
    summary: ClassVar[str] = "cosine distance to the most alike other token"
    gives: ClassVar[tuple[ScoreKind, ...]] = ("importance",)
    needs: ClassVar[frozenset[Need]] = frozenset()

    def importance(self, layer: LayerView) -> Tensor:
        """Distances in [0, 2], float32 [clips, N]."""
        from fastadasp.ops import nearest

        return 1 - nearest(layer.hidden, layer.valid)[1].clamp_min(-1)


@hookimpl
def fastadasp_scorers() -> list[type[Scorer]]:
    return [Isolation]
