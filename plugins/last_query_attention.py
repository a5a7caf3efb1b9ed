"""Last-query attention: how much the last token of the prompt looks at a token (FastV)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload
    from fastadasp.contracts.components import Need


class LastQueryAttention(Scorer):
    """a_j = mean over heads of the attention weight A[head, last query, j].

    Source: Chen et al., FastV ("An Image is Worth 1/2 Tokens After Layer 2"), ECCV 2024, as in the authors' code: one
    query row, the prompt's last token. FastAdaSP's tables call another rule FastV, the sum over all queries
    (``received-attention``).

    At the site ``cache``, where each key/value head keeps tokens of its own, the mean is over the query heads that
    share its keys; with `together` it is over all heads, so that they all keep the same tokens, and the last token
    itself counts most if it is audio. That is TOVA (Oren et al., "Transformers are Multi-State RNNs", EMNLP 2024).
    """

    name = "last-query-attention"
    summary = "attention of the prompt's last token, mean over heads"
    formula = "a_j = mean over heads of A[head, last query, j]"
    source = "FastV (Chen et al., ECCV 2024), as in its authors' code"
    cost = "H T d for one row of attention"
    gives = ("importance",)
    needs = frozenset({"attention"})

    together: bool = Field(default=False, description="one choice for all heads of a cache, as TOVA has it")

    def needed(self) -> frozenset[Need]:
        return self.needs | {"order"} if self.together else self.needs

    def multiply_adds(self, work: Workload) -> int:
        return work.attention_rows(1)

    def importance(self, layer: LayerView) -> Tensor:
        """Mean attention weights in [0, 1], float32 [clips, N]; 2 for the last token itself."""
        if not self.together:
            return layer.last_query_attention()
        whole = layer.whole
        scores = whole.last_query_attention().masked_fill(whole.tokens_from() == 1, 2.0)
        return layer.by_row(scores.unsqueeze(1).expand(-1, layer.heads, -1))
