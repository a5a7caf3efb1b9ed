"""Bipartite: even tokens join the odd tokens most like them (ToMe)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_leaders, nearest, smallest

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload
    from fastadasp.contracts.components import Need


class Bipartite(Merger):
    """The k even tokens (0, 2, ...) with the smallest importance join the odd token most like them, by cosine of x.

    x are keys, or hidden states; an odd token becomes the mean of all that joined it and itself, weighted if the recipe
    names a ``weight``. With a `window` the clip is cut into windows of so many tokens, odd and even are counted anew in
    each, and tokens join inside their window only. At most half of a window's tokens can go in one layer.

    Source: Bolya et al., "Token Merging: Your ViT But Faster" (ToMe), ICLR 2023: the scorer ``isolation`` with among =
    "odd" makes the k most alike pairs join, which is its bipartite soft matching. What differs: keys are after rotary
    embedding and compared with all heads side by side (ToMe takes their mean over heads), and attention is not made
    proportional to a token's size. A mean stands where its first member stood.
    """

    name = "bipartite"
    summary = "even tokens join the odd ones most like them"
    formula = "the k even j with the smallest score join argmax over odd i of cosine(x_i, x_j)"
    source = 'ToMe (Bolya et al., ICLR 2023), with `isolation` among "odd"'
    cost = "cosines of all pairs, N² D, in blocks that are not kept"
    reads = "importance"

    of: Literal["hidden", "keys"] = Field(default="keys", description='or "hidden" states')
    window: int | None = Field(default=None, ge=2, description="pairs are sought inside windows of so many tokens")

    def needed(self) -> frozenset[Need]:
        return frozenset({"order", "attention"}) if self.of == "keys" else frozenset({"order"})

    def capacity(self, tokens: int) -> int:
        window = self.window or max(tokens, 1)
        return tokens // window * (window // 2) + tokens % window // 2

    def multiply_adds(self, work: Workload) -> int:
        width = work.hidden if self.of == "hidden" else work.key_width
        return work.cosines(work.tokens**2, width) + work.means()

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        import torch

        valid = layer.valid
        steps = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        odd = (steps % (self.window or valid.shape[1] + 1)) % 2 == 1
        x = layer.hidden if self.of == "hidden" else layer.keys
        partner, cosine = nearest(x, valid & odd, self.window)
        able = valid & ~odd & (cosine > float("-inf"))
        joins = able & smallest(select.masked_fill(~able, float("inf")), remove)
        return TokenPlan(clusters_from_leaders(partner.where(joins, steps), valid), weight)
