"""Window attention: what the prompt's last tokens attend to, smoothed in time (SnapKV)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class WindowAttention(Scorer):
    """a_j: mean over the prompt's last `window` queries of A[head, query, t], then over the `kernel` keys t around j.

    The mean over the query heads of each key/value head follows. Keys of the window itself count as 0 in the averages,
    and so does what lies before the prompt; audio tokens inside the window rank before all others, later ones first.

    Source: Li et al., SnapKV, NeurIPS 2024, as NVIDIA's kvpress has it (the paper pools by maximum). At the site
    ``cache`` each key/value head has scores of its own; elsewhere their mean counts.
    """

    name = "window-attention"
    summary = "attention of the prompt's last tokens, smoothed in time"
    formula = (
        "a_j = mean over the last queries i, over the keys t around j and over the query heads of a "
        "key/value head, of A[head, i, t]"
    )
    source = "SnapKV (Li et al., NeurIPS 2024), with the means of kvpress"
    cost = "H w T d for w rows of attention"
    gives = ("importance",)
    needs = frozenset({"attention", "order"})

    window: int = Field(default=64, ge=1, description="the last queries that are asked")
    kernel: int = Field(default=5, ge=1, description="keys of an average, an odd number")

    @field_validator("kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("an average around a token takes an odd number of tokens")
        return value

    def multiply_adds(self, work: Workload) -> int:
        return work.attention_rows(self.window) + work.heads * work.prompt * self.kernel

    def importance(self, layer: LayerView) -> Tensor:
        """Mean attention weights in [0, 1], above them for audio inside the window, float32 [clips, N]."""
        import torch

        whole = layer.whole
        columns, real = whole.last_tokens(self.window)
        rows = whole.attention_from(columns, real / real.sum(1, keepdim=True))
        first = columns.masked_fill(~real, rows.shape[-1]).amin(1) + rows.shape[-1] - whole.states.shape[1]
        inside = torch.arange(rows.shape[-1], device=rows.device) >= first.unsqueeze(1)
        rows = rows.masked_fill(inside.unsqueeze(1), 0.0)
        rows = torch.nn.functional.avg_pool1d(rows, self.kernel, stride=1, padding=self.kernel // 2)
        scores = whole.of_audio(rows).unflatten(1, (whole.keys.shape[2], -1)).mean(2)
        recent = whole.of_audio(inside).unsqueeze(1)
        late = 2.0 + torch.arange(scores.shape[-1], device=scores.device)
        return layer.by_row(scores.where(~recent, late))
