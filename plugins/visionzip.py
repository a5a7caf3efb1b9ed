"""VisionZip: dominant tokens stay as they are, the rest is averaged into a few."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_leaders, evenly_spaced, largest, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class VisionZip(Merger):
    """Of the m tokens that stay, a share is contextual: means of all that is not dominant; the others are dominant.

    - dominant: the tokens with the largest importance; they are copied;
    - targets: round(``contextual`` x m) of the remaining tokens, at least one, at even distances in time;
    - each other token joins the target whose key (after rotary embedding, heads concatenated) is most like its own by
      cosine; a target becomes the mean of its members, itself included, weighted if the recipe names a ``weight``.

    Exactly k tokens go; a mean stands where its first member stood. Source: Yang et al., VisionZip, CVPR 2025 (54
    dominant and 10 contextual tokens of 64). What differs: the authors' code adds the mean of the joining tokens to the
    target, which doubles its length, and takes attention and keys (mean over heads) from the encoder. Keys are compared
    in blocks, so memory grows with N.
    """

    name = "visionzip"
    summary = "keeps the dominant tokens, averages the rest into evenly spaced ones"
    formula = (
        "dominant: the largest scores; the rest joins the target with the largest cosine(K_j, K_target), evenly "
        "spaced in time"
    )
    source = "VisionZip (Yang et al., CVPR 2025)"
    cost = "cosines of keys, N² d_K, in blocks that are not kept"
    reads = "importance"
    needs = frozenset({"attention", "order"})

    contextual: float = Field(default=0.15625, gt=0, le=1, description="the share of means among the tokens that stay")

    def multiply_adds(self, work: Workload) -> int:
        return work.cosines(work.tokens**2, work.key_width) + work.means()

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        import torch

        valid = layer.valid
        kept = valid.sum(1) - remove
        targets = (kept * self.contextual + 0.5).floor().long().clamp_min(1).minimum(kept)
        dominant = largest(select.masked_fill(~valid, float("-inf")), kept - targets) & valid
        rest = valid & ~dominant
        target = rest & evenly_spaced(rest.cumsum(1) - 1, rest.sum(1), targets)
        steps = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        leader = steps.where(dominant | target, nearest(layer.keys, target)[0])
        return TokenPlan(clusters_from_leaders(leader, valid), weight)
