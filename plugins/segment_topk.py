"""Segment-wise top-k: every stretch of time keeps a share (drop, spread over the clip)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_kept, rank_descending, rank_in_groups

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class SegmentTopk(Merger):
    """The clip is cut into segments of time, each keeps its share of the tokens that stay: the most important ones.

    Segments have ``length`` tokens (25 are a second of Qwen2-Audio's sound), or there are ``segments`` of them. Shares:

    - ``"equal"``: in proportion to a segment's tokens. Source: Gibier et al., "Segmentwise Pruning in Audio-Language
      Models", 2025, which floors K / S and takes the encoder's attention; here K is met exactly.
    - ``"softmax"``: p = softmax over segments of the sum of the segment's importances / ``temperature``. Source: Lin et
      al., SpeechPrune, ICME 2025, first phase (with ``text-similarity``), which floors, too.

    Shares become whole numbers by largest remainder, and of equal remainders the one whose next token is more important
    comes first. What a share exceeds its segment's tokens by goes to the other segments, a token each in turn: the
    papers do not say. Exactly k tokens go. After an earlier reduction segments count the tokens that are left.
    """

    name = "segment-topk"
    summary = "removes the least important tokens of each segment of time"
    formula = "segment g keeps its share m_g of the m = n - k that stay: the m_g largest scores in it"
    source = 'Gibier et al., Segmentwise Pruning in Audio-Language Models, 2025; SpeechPrune with "softmax"'
    cost = "two sorts of N scores and a gather"
    reads = "importance"
    uses_weight = False
    needs = frozenset({"order"})
    sites = ("input", "block", "cache")

    length: int = Field(default=25, ge=1, description="tokens of a segment")
    segments: int | None = Field(default=None, ge=1, description="or how many segments there are")
    share: Literal["equal", "softmax"] = Field(default="equal", description='or "softmax" of the summed importances')
    temperature: float = Field(default=1.0, gt=0, description="of the softmax")

    def multiply_adds(self, work: Workload) -> int:
        return 0

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        import torch

        valid = layer.valid
        total = valid.sum(1, keepdim=True)
        kept = total - remove.unsqueeze(1)
        steps = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        if self.segments is None:
            count, segment = -(-valid.shape[1] // self.length), steps // self.length
        else:
            count, segment = self.segments, steps * self.segments // total.clamp_min(1)
        segment = segment.where(valid, count)  # padding has a segment of its own
        rank = rank_in_groups(select, segment, count + 1)

        # A token's claim is its segment's share minus its rank there: the largest claims are the largest remainders.
        real = valid.long()
        sizes = real.new_zeros(len(real), count + 1).scatter_add(1, segment, real)
        if self.share == "equal":
            claim = (kept * sizes.gather(1, segment) - total * rank).masked_fill(~valid, torch.iinfo(torch.int64).min)
        else:
            score = select.masked_fill(~valid, 0.0).float()
            sums = score.new_zeros(sizes.shape).scatter_add(1, segment, score).masked_fill(sizes == 0, float("-inf"))
            shares = kept * (sums / self.temperature).softmax(1)
            claim = (shares.gather(1, segment) - rank).masked_fill(~valid, float("-inf"))
        return TokenPlan(clusters_from_kept(valid & (rank_descending(claim, select) < kept)), merges=False)
