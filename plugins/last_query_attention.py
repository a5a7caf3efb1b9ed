"""Last-query attention: how much the last token of the prompt looks at a token (FastV)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView


class LastQueryAttention(Scorer):
    """a_j = mean over heads of the attention weight A[head, last query, j].

    Source: Chen et al., FastV ("An Image is Worth 1/2 Tokens After Layer 2"), ECCV 2024, as in the authors' code: one
    query row, the prompt's last token. FastAdaSP's tables call another rule FastV, the sum over all queries
    (``received-attention``).
    """

    name = "last-query-attention"
    summary = "attention of the prompt's last token, mean over heads"
    formula = "a_j = mean over heads of A[head, last query, j]"
    source = "FastV (Chen et al., ECCV 2024), as in its authors' code"
    cost = "H T d for one row of attention"
    gives = ("importance",)
    needs = frozenset({"attention"})

    def importance(self, layer: LayerView) -> Tensor:
        """Mean attention weights in [0, 1], float32 [clips, N]."""
        return layer.last_query_attention()
