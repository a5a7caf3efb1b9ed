"""Encoder attention: how much the audio encoder itself looks at a token (VisionZip, VisPruner, SA-MAP)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class EncoderAttention(Scorer):
    """r_j: attention of the audio encoder's last layer, that the frames of token j receive from the frames asked.

    Each weight is the mean over heads, or their maximum. `frames` are those asked: all (silence after the recording
    included, where the encoder pads), the ``valid`` ones, or those that became ``tokens``. With `of` = ``own`` it is
    what the token's frames give to each other instead, as SA-MAP judges its groups.

    Source: the audio forms of VisionZip (mean, valid), VisPruner (max, all) and SA-MAP (max, tokens as weight; mean,
    own for relevance) in the branch SA-MAP of Tencent/AngelSlim. Known before the first reduction alone.
    """

    name = "encoder-attention"
    summary = "attention of the audio encoder's last layer"
    formula = "r_j = Σ_{frames i asked} Σ_{frames t of j} mean_heads or max_heads E[head, i, t] / frames of a token"
    source = "audio forms of VisionZip, VisPruner and SA-MAP (Tencent/AngelSlim)"
    cost = "F² D of the encoder's F frames for queries times keys once more, in blocks"
    gives = ("importance",)
    needs = frozenset({"encoder"})

    heads: Literal["mean", "max"] = Field(default="mean", description='or "max": how heads are put together')
    frames: Literal["valid", "all", "tokens"] = Field(
        default="valid", description='frames that are asked; or "all", padding included, or those that became "tokens"'
    )
    of: Literal["all", "own"] = Field(default="all", description='or "own": what a token\'s frames give to each other')

    def multiply_adds(self, work: Workload) -> int:
        return 0  # what is read of the encoder is counted once for all that read it

    def importance(self, layer: LayerView) -> Tensor:
        """Sums of attention weights, at least 0, float32 [clips, N]."""
        seen = layer.whole.of_encoder(f"scorer {self.name!r}")
        scores = seen.own_attention(self.heads) if self.of == "own" else seen.attention(self.heads, self.frames)
        return layer.by_row(scores.unsqueeze(1).expand(-1, layer.heads, -1))
