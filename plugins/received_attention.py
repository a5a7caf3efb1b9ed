"""Received attention: how much all queries of the layer look at a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload
    from fastadasp.contracts.components import Need


class ReceivedAttention(Scorer):
    """w_j = sum over heads and over all queries, text included, of the attention weight A[head, query, j].

    Streamed over blocks of queries; the attention matrix is never held. Source: Lu et al., FastAdaSP, EMNLP 2024,
    released code. Two things follow from the sum over all queries of a causal layer: it counts the token's attention to
    itself, and earlier tokens, which more queries can see, tend to receive more. FastV (Chen et al., ECCV 2024) asks
    the last query alone instead.

    Exact unless asked otherwise. Cheaper, and not in the paper: `queries` asks only a share of the queries (`which`
    ones: every n-th, or the last), and `layers` above 1 uses a layer's scores at the layers that follow, too; a merged
    token then has the sum of its members' scores.

    Where a cache evicts again while the answer grows (`every`), sums go on: the answer's queries are added to what each
    key has received, as in H2O (Zhang et al., NeurIPS 2023). H2O's recent window is `recent`, the share of what stays
    that are the last tokens. With evicts = "any", every = 1 and recent = 0.5 this is H2O's own form, but for its
    budget, which is a number of keys and does not grow.

    `per_query` divides each sum by the number of queries that can see the token, which makes early and late tokens
    comparable; at the site ``cache`` that is the observed attention of NVIDIA's kvpress.
    """

    name = "received-attention"
    summary = "attention received, summed over heads and all queries"
    formula = "w_j = Σ_heads Σ_queries A[head, query, j]"
    source = "released code"
    cost = (
        "H T² d for queries times keys once more, in blocks of queries (`queries` asks fewer); on a CPU taken "
        "along with the attention, for little"
    )
    gives = ("importance",)
    needs = frozenset({"attention"})

    queries: float = Field(default=1.0, gt=0, le=1, description="the share of the queries that is asked")
    which: Literal["strided", "last"] = Field(default="strided", description='every n-th query, or the "last" ones')
    layers: int = Field(default=1, ge=1, description="layers that use the scores of one layer")
    per_query: bool = Field(default=False, description="divides by the number of queries that can see the token")
    recent: float | None = Field(default=None, gt=0, le=1, description="share of what stays that are the last tokens")

    def needed(self) -> frozenset[Need]:
        return self.needs | {"order"} if self.per_query or self.recent is not None else self.needs

    def multiply_adds(self, work: Workload) -> int:
        return work.received_attention(self.queries, self.which) if work.anew(self.layers) else 0

    def asks_received(self) -> bool:
        return self.queries == 1 and self.layers == 1

    def importance(self, layer: LayerView) -> Tensor:
        """Sums of attention weights, at least 0, float32 [clips, N]."""

        def received() -> Tensor:
            found = layer.received_attention(self.queries, self.which)
            earlier = layer.carried(self.name)
            found = found if earlier is None else found + earlier
            layer.carry(self.name, found)
            return found

        found = layer.shared(str(self), self.layers, received)
        if self.per_query:
            found = found / layer.tokens_from().clamp_min(1)
        return found if self.recent is None else self._with_recent(found, layer, self.recent)

    def _with_recent(self, scores: Tensor, layer: LayerView, share: float) -> Tensor:
        """The last of what stays before all others, later ones first."""
        import torch

        total = layer.valid.sum(1)
        kept = total if layer.remove is None else (total - layer.remove).clamp_min(1)
        last = total - (kept.double() * share).floor().long()
        steps = torch.arange(scores.shape[1], device=scores.device)
        highest = scores.masked_fill(~layer.valid, 0.0).amax(1, keepdim=True)
        return scores.where(steps < last.unsqueeze(1), highest + 1 + steps)
