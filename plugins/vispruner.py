"""VisPruner: half of what stays is important, the other half is what has no double."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_kept, largest, unit_vectors

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload

BLOCK = 512
"""Tokens that others are compared with at once."""


class VisPruner(Merger):
    """Of the m tokens that stay, round(m `important`) are those with the largest importance; duplicates of the rest go.

    The rest is thinned in rounds until m tokens are left: its tokens are numbered in the order of time, each even one
    is compared with all odd ones by cosine of h, and the `step` even ones that are most like an odd one go (fewer in
    the last round). Exactly k tokens go.

    Source: Zhang et al., VisPruner, ICCV 2025, as the branch SA-MAP of Tencent/AngelSlim has it for audio. Rounds
    follow one another, as many as the clip with most to remove needs.
    """

    name = "vispruner"
    summary = "keeps the most important tokens, and of the rest those without a double"
    formula = (
        "important: the round(m · important) largest scores; "
        "the rest: rounds in which even tokens with the largest max over odd i of cosine(h_i, h_j) go"
    )
    source = "VisPruner (Zhang et al., ICCV 2025), in its audio form (Tencent/AngelSlim)"
    cost = "k / step rounds that follow one another, each N² D for cosines in blocks that are not kept"
    reads = "importance"
    uses_weight = False
    needs = frozenset({"order"})
    sites = ("input", "block")

    important: float = Field(default=0.5, ge=0, le=1, description="share of important tokens among those that stay")
    step: int = Field(default=4, ge=1, description="tokens that go in a round")

    def multiply_adds(self, work: Workload) -> int:
        rest, spare = work.tokens - round(work.kept * self.important), work.kept - round(work.kept * self.important)
        pairs = 0
        while spare and (goes := max(min(self.step, rest - spare, (rest + 1) // 2), 0)):
            pairs, rest = pairs + -(-rest // 2) * (rest // 2), rest - goes
        return work.cosines(pairs, work.hidden)

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        import torch

        valid, unit = layer.valid, unit_vectors(layer.hidden)
        kept = valid.sum(1) - remove
        count = (kept.double() * self.important).round().long()  # halves to the even number, as Python's round
        important = largest(select.masked_fill(~valid, float("-inf")), count) & valid
        spare = kept - count
        rest = valid & ~important & (spare > 0).unsqueeze(1)
        for width in self._widths(layer):
            order = (~rest).to(torch.int8).argsort(dim=1, stable=True)[:, :width]
            size, places = rest.sum(1), torch.arange(width, device=rest.device)
            there = places < size.unsqueeze(1)
            even, odd = order[:, ::2], order[:, 1::2]
            double = _largest_cosine(_rows(unit, even), _rows(unit, odd), there[:, 1::2])
            able = ((size + 1) // 2).minimum(size - spare).clamp(0, self.step)
            goes = largest(double.masked_fill(~there[:, ::2], float("-inf")), able)
            rest = rest & ~torch.zeros_like(rest).scatter(1, even, goes)
        return TokenPlan(clusters_from_kept(important | rest), merges=False)

    def _widths(self, layer: LayerView) -> list[int]:
        """For each round, how many tokens of the rest the fullest clip still has; more and wider rounds do no harm."""
        if layer.removals is None:
            most = max(layer.tokens, default=0)
            return [most] * (-(-most // self.step) + (2 * self.step).bit_length() + 1)
        kept = [n - k for n, k in zip(layer.tokens, layer.removals, strict=True)]
        spare = [m - round(m * self.important) for m in kept]
        rest = [n - m + s if s else 0 for n, m, s in zip(layer.tokens, kept, spare, strict=True)]
        widths = []
        while any(goes := [max(min(self.step, r - s, (r + 1) // 2), 0) for r, s in zip(rest, spare, strict=True)]):
            widths.append(max(rest))
            rest = [r - go for r, go in zip(rest, goes, strict=True)]
        return widths


def _rows(x: Tensor, places: Tensor) -> Tensor:
    return x.gather(1, places.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _largest_cosine(x: Tensor, among: Tensor, there: Tensor) -> Tensor:
    """The largest inner product of each unit vector with those that are there, in blocks: [clips, M]."""
    best = x.new_full(x.shape[:2], float("-inf"))
    for begin in range(0, among.shape[1], BLOCK):
        block = slice(begin, begin + BLOCK)
        cosine = (x @ among[:, block].transpose(1, 2)).masked_fill(~there[:, None, block], float("-inf"))
        best = best.maximum(cosine.amax(-1))
    return best
