"""Novelty: how much a token differs from the one before it (EVS)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastadasp import Scorer, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView
    from fastadasp.contracts.components import Need, ScoreKind


class Novelty(Scorer):
    """e_j = 1 - cosine(h_{j-1}, h_j); the clip's first token gets 3, more than any other can.

    Source: NVIDIA's Efficient Video Sampling (EVS), as vLLM and SGLang ship it for video. There a token is compared
    with the one at the same place of the frame before, and the whole first frame stays. Sound has one token a moment,
    so the frame before is the token before.
    """

    name: ClassVar[str] = "novelty"
    summary: ClassVar[str] = "cosine distance to the token before"
    gives: ClassVar[tuple[ScoreKind, ...]] = ("importance",)
    needs: ClassVar[frozenset[Need]] = frozenset({"order"})

    def importance(self, layer: LayerView) -> Tensor:
        """Distances in [0, 2], 3 for the first token, float32 [clips, N]."""
        import torch

        from fastadasp.ops import cosine_to_next

        return torch.nn.functional.pad(1 - cosine_to_next(layer.hidden), (1, 0), value=3.0)


@hookimpl
def fastadasp_scorers() -> list[type[Scorer]]:
    return [Novelty]
