"""Contextual: dominant tokens stay, and a few others have the mean of the rest added to them (VisionZip's audio
form)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_leaders, largest, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class Contextual(Merger):
    """Of n tokens, max(1, floor(n `share`)) that stay are contextual, the others that stay are dominant.

    - dominant: the largest importances; they are copied;
    - targets: of the M other tokens every floor(M / targets)-th, from the first on;
    - each token that is left joins the target whose key in the encoder's last layer (mean over heads) is most like its
      own by cosine; a target becomes itself plus the mean of those that joined it.

    Source: VisionZip (Yang et al., CVPR 2025) in the audio form of the branch SA-MAP of Tencent/AngelSlim, where a
    target is summed and not averaged, as in its authors' code. What differs: exactly k tokens go (there both counts are
    cut to whole numbers), and a target stands where the first of its members stood. The merger ``visionzip`` is a
    variant of ours, for the decoder.
    """

    name = "contextual"
    summary = "keeps the dominant tokens, adds the means of the rest to a few"
    formula = (
        "dominant: the largest scores; target t becomes h_t + mean of the h_j whose encoder key is most like its own"
    )
    source = "VisionZip (Yang et al., CVPR 2025), in its audio form (Tencent/AngelSlim)"
    cost = "cosines of encoder keys, N² d, in blocks that are not kept"
    reads = "importance"
    uses_weight = False
    needs = frozenset({"encoder", "order"})
    sites = ("input",)

    share: float = Field(default=0.05, gt=0, lt=1, description="contextual tokens, as a share of all")

    def multiply_adds(self, work: Workload) -> int | None:
        if work.encoder_width is None:
            return None
        return work.cosines(work.tokens**2, work.encoder_width) + work.means()

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        import torch

        valid, keys = layer.valid, layer.of_encoder(f"merger {self.name!r}").keys
        total = valid.sum(1)
        kept = total - remove
        targets = (total.double() * self.share).floor().long().clamp_min(1).minimum(kept)
        dominant = largest(select.masked_fill(~valid, float("-inf")), kept - targets) & valid
        rest = valid & ~dominant
        place = rest.cumsum(1) - 1
        step = (rest.sum(1) // targets.clamp_min(1)).clamp_min(1).unsqueeze(1)
        target = rest & (place % step == 0) & (place // step < targets.unsqueeze(1))
        steps = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        leader = steps.where(dominant | target | (remove == 0).unsqueeze(1), nearest(keys, target)[0])
        joined = torch.zeros_like(leader).scatter_add_(1, leader, (rest & (leader != steps)).long())
        share = torch.ones_like(select, dtype=torch.float32) / joined.gather(1, leader).clamp_min(1)
        share = torch.ones_like(share).where(leader == steps, share)
        return TokenPlan(clusters_from_leaders(leader, valid), share, shares=True)
