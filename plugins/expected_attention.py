"""Expected attention: how much later tokens can be expected to look at a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp import Scorer, StrategyError
from fastadasp.ops import turn

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class ExpectedAttention(Scorer):
    """e_j = (`epsilon` + mean over the head's query heads of softmax_t(u . K_t / sqrt(d) + K_t' C K_t / (2 d))_j)
    |V_j|.

    u and C are mean and covariance of a query head's queries before they are turned by their positions, both then
    turned by R, the mean rotation of the `ahead` positions after the prompt: of normally distributed queries to come,
    these are the expected weights. The prompt's first `sinks` tokens are left out of everything and, if audio, always
    rank first. `covariance` = false leaves C out and `values` = false the norms of the values.

    Source: Devoto et al., "Expected Attention", 2025, as in NVIDIA's kvpress. What differs: softmax and statistics are
    over the whole prompt, but only audio tokens can go. At the site ``cache`` each key/value head has scores of its
    own; elsewhere their mean counts.
    """

    name = "expected-attention"
    summary = "attention to be expected of the tokens that follow the prompt"
    formula = (
        "e_j = (ε + mean over query heads of softmax_t(u · K_t / √d + K_t' C K_t / 2d)_j) ‖V_j‖; u, C: "
        "mean and covariance of the queries, turned to the positions to come"
    )
    source = "Expected Attention (Devoto et al., 2025), as in kvpress"
    cost = "2 H T d² for covariances and their products with keys"
    gives = ("importance",)
    needs = frozenset({"attention", "order"})

    ahead: int = Field(default=512, ge=1, description="positions after the prompt")
    sinks: int = Field(default=4, ge=0, description="first tokens of the prompt that are left out, and stay")
    covariance: bool = Field(default=True, description="whether C counts")
    values: bool = Field(default=True, description="whether the norm of the value counts")
    epsilon: float = Field(default=0.0, ge=0, description="ε")

    def multiply_adds(self, work: Workload) -> int:
        width, size = work.heads * work.head_dim, work.prompt
        spread = 2 * size * width * (work.head_dim + 1) if self.covariance else 0
        return spread + 2 * size * width + (size * work.key_width if self.values else 0)

    def importance(self, layer: LayerView) -> Tensor:
        """Expected weights times norms, float32 [clips, N]; more than any other for sinks."""
        whole = layer.whole
        if whole.rotation is None or whole.query is None or whole.key is None or whole.value is None:
            raise StrategyError(
                f"scorer {self.name!r} needs queries that are turned by rotary embedding in halves of their channels, "
                "which this layer has not"
            )
        groups, length = whole.key.shape[1], whole.states.shape[1]
        known = whole.known_keys()
        late = known & (known.cumsum(-1) > self.sinks)
        asked = late[:, :1, -length:].float().unsqueeze(3)
        queries = whole.rotation.undo(whole.query)
        count = asked.sum(2, keepdim=True).clamp_min(1)
        mean = (queries * asked).sum(2, keepdim=True) / count
        cos, sin = (part.view(len(part), 1, 1, -1) for part in whole.rotation.ahead(self.ahead))
        keys = whole.key.float().unsqueeze(2)  # [B, groups, 1, keys, d]
        ahead = turn(mean, cos, sin).unflatten(1, (groups, -1))
        logits = (ahead * keys).sum(-1) * whole.scale
        if self.covariance:
            centred = (queries - mean) * asked
            spread = turn(turn(centred.transpose(2, 3) @ centred / count, cos, sin).transpose(2, 3), cos, sin)
            spread = spread.unflatten(1, (groups, -1))
            logits = logits + ((keys @ spread) * keys).sum(-1) * (whole.scale**2 / 2)
        logits = logits.masked_fill(~late.unsqueeze(2), float("-inf"))
        scores = logits.softmax(-1).nan_to_num(0.0).mean(2) + self.epsilon
        if self.values:
            scores = scores * whole.value.float().norm(dim=-1)
        sample = whole.spans.sample
        scores = whole.of_audio(scores[sample])
        most = scores.amax((1, 2), keepdim=True) + 1
        return layer.by_row(scores.where(whole.of_audio(late[sample]), most))
