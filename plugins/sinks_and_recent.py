"""Sinks and recent: the first tokens and the last ones matter (StreamingLLM)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from fastadasp import Scorer, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView
    from fastadasp.contracts.components import Need, ScoreKind


class SinksAndRecent(Scorer):
    """The clip's first `sinks` tokens count most, the first of them most of all; then each token more than the one before.

    Source: Xiao et al., "Efficient Streaming Language Models with Attention Sinks" (StreamingLLM), ICLR 2024. What
    differs: they are the first and last tokens of the clip, not of the prompt, whose text stays anyhow; so the attention
    sink of a prompt that begins with text is never at stake. A baseline: nothing is looked at.
    """

    name: ClassVar[str] = "sinks-and-recent"
    summary: ClassVar[str] = "the first tokens, then the most recent ones"
    gives: ClassVar[tuple[ScoreKind, ...]] = ("importance",)
    needs: ClassVar[frozenset[Need]] = frozenset({"order"})

    sinks: int = Field(default=4, ge=0)

    def importance(self, layer: LayerView) -> Tensor:
        """Whole numbers, float32 [clips, N]."""
        import torch

        width = layer.valid.shape[1]
        steps = torch.arange(width, dtype=torch.float32, device=layer.valid.device)
        return steps.where(steps >= self.sinks, 2 * width - steps).expand(layer.valid.shape)


@hookimpl
def fastadasp_scorers() -> list[type[Scorer]]:
    return [SinksAndRecent]
