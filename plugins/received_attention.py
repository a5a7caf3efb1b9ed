"""Received attention: how much all queries of the layer look at a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastadasp import Scorer, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView
    from fastadasp.components import Need, ScoreKind


class ReceivedAttention(Scorer):
    """w_j = sum over heads and over all queries, text included, of the attention weight A[head, query, j].

    Streamed over blocks of queries; the attention matrix is never held. Source: Lu et al., FastAdaSP, EMNLP 2024,
    released code. Two things follow from the sum over all queries of a causal layer: it counts the token's attention to
    itself, and earlier tokens, which more queries can see, tend to receive more. FastV (Chen et al., ECCV 2024) asks
    the last query alone instead.
    """

    name: ClassVar[str] = "received-attention"
    summary: ClassVar[str] = "attention received, summed over heads and all queries"
    gives: ClassVar[tuple[ScoreKind, ...]] = ("importance",)
    needs: ClassVar[frozenset[Need]] = frozenset({"attention"})

    def importance(self, layer: LayerView) -> Tensor:
        """Sums of attention weights, at least 0, float32 [clips, N]."""
        return layer.received_attention()


@hookimpl
def fastadasp_scorers() -> list[type[Scorer]]:
    return [ReceivedAttention]
