"""Sinks and recent: the first tokens and the last ones matter (StreamingLLM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class SinksAndRecent(Scorer):
    """The clip's first `sinks` tokens count most, the first of them most of all; then each token more than the one
    before.

    Source: Xiao et al., "Efficient Streaming Language Models with Attention Sinks" (StreamingLLM), ICLR 2024. What
    differs: they are the first and last tokens of the clip, not of the prompt, whose text stays anyhow; so the
    attention sink of a prompt that begins with text is never at stake. A baseline: nothing is looked at.
    """

    name = "sinks-and-recent"
    summary = "the first tokens, then the most recent ones"
    formula = "s_j = 2 n - j for the first tokens, j for the others"
    source = "StreamingLLM (Xiao et al., ICLR 2024)"
    gives = ("importance",)
    needs = frozenset({"order"})

    sinks: int = Field(default=4, ge=0, description="how many of the first tokens rank before all others")

    def multiply_adds(self, work: Workload) -> int:
        return 0

    def importance(self, layer: LayerView) -> Tensor:
        """Whole numbers, float32 [clips, N]."""
        import torch

        steps = torch.arange(layer.valid.shape[1], dtype=torch.float32, device=layer.valid.device)
        return steps.where(steps >= self.sinks, 2 * layer.valid.sum(1, keepdim=True) - steps)
