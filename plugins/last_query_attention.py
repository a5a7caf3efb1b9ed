"""Last-query attention: how much the last token of the prompt looks at a token (FastV)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastadasp import Scorer, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView
    from fastadasp.contracts.components import Need, ScoreKind


class LastQueryAttention(Scorer):
    """a_j = mean over heads of the attention weight A[head, last query, j].

    Source: Chen et al., FastV ("An Image is Worth 1/2 Tokens After Layer 2"), ECCV 2024, as in the authors' code: one
    query row, the prompt's last token. FastAdaSP's tables call another rule FastV, the sum over all queries
    (``received-attention``).
    """

    name: ClassVar[str] = "last-query-attention"
    summary: ClassVar[str] = "attention of the prompt's last token, mean over heads"
    gives: ClassVar[tuple[ScoreKind, ...]] = ("importance",)
    needs: ClassVar[frozenset[Need]] = frozenset({"attention"})

    def importance(self, layer: LayerView) -> Tensor:
        """Mean attention weights in [0, 1], float32 [clips, N]."""
        return layer.last_query_attention()


@hookimpl
def fastadasp_scorers() -> list[type[Scorer]]:
    return [LastQueryAttention]
