"""The token stream between two layers, and its reduction by a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastadasp.engine.plan import TokenPlan
from fastadasp.engine.spans import AudioSpans


@dataclass(frozen=True)
class Stream:
    """What is known of the sequence that enters a layer.

    Attributes:
        lengths: tokens of each sample without padding, on the host.
        width: columns, padding included.
        valid: bool [B, width], False for padding; None where no sample is padded.
        spans: the audio tokens in it.
    """

    lengths: tuple[int, ...]
    width: int
    valid: Tensor | None
    spans: AudioSpans

    def to(self, device: torch.device) -> Stream:
        """The same on a device (a model may lie on several)."""
        if self.spans.start.device == device:
            return self
        return replace(self, valid=None if self.valid is None else self.valid.to(device), spans=self.spans.to(device))


@dataclass(frozen=True)
class Reduction:
    """R and S of one plan: `reduce` takes a sequence to its clusters, `expand` gives each token its cluster's value.

    R S = 1 on clusters, which is what lets a reduction act between a block's attention and its MLP from outside.

    Attributes:
        target: int64 [B, T], the new column of each token; `width` for a token that is gone.
        source: int64 [B, width], the old column of each survivor (its cluster's first token).
        share: float32 [B, T], each token's share of its cluster's mean (they sum to 1); None if nothing merges.
        width: columns of the reduced sequence.
        filled: bool [B, width], False for left padding; None if no sample is padded.
    """

    target: Tensor
    source: Tensor
    share: Tensor | None
    width: int
    filled: Tensor | None

    def select(self, x: Tensor) -> Tensor:
        """Survivors' own rows: [B or 1, T, ...] -> [B, width, ...]."""
        index = self.source.reshape(*self.source.shape, *(1,) * (x.dim() - 2))
        return x.expand(self.source.shape[0], *x.shape[1:]).gather(1, index.expand(-1, -1, *x.shape[2:]))

    def reduce(self, h: Tensor) -> Tensor:
        """R h: hidden states [B, T, D] -> [B, width, D]; float32 sums, the input's dtype. Padding columns are zero."""
        if self.share is None:
            out = self.select(h)
            return out if self.filled is None else out * self.filled.unsqueeze(-1)
        batch, _, dim = h.shape
        out = h.new_zeros(batch * (self.width + 1), dim, dtype=torch.float32)
        rows = self.target + (self.width + 1) * torch.arange(batch, device=h.device).unsqueeze(1)
        out.index_add_(0, rows.flatten(), (h * self.share.unsqueeze(-1)).flatten(0, 1).float())
        return out.view(batch, self.width + 1, dim)[:, : self.width].to(h.dtype)

    def expand(self, m: Tensor) -> Tensor:
        """S m: [B, width, D] -> [B, T, D]; tokens that are gone get some row, which `reduce` ignores."""
        index = self.target.clamp(max=self.width - 1).unsqueeze(-1)
        return m.gather(1, index.expand(-1, -1, m.shape[-1]))


def put(base: Tensor, rows: Tensor, columns: Tensor, real: Tensor, values: Tensor) -> Tensor:
    """`base` [B, T] with `values` [clips, N] written where `real`; the rest goes to a spare column (no device sync)."""
    spare = base.shape[1]
    wide = torch.nn.functional.pad(base, (0, 1))
    wide[rows, columns.where(real, spare)] = values
    return wide[:, :spare]


def apply_plan(stream: Stream, plan: TokenPlan, survivors: Sequence[int]) -> tuple[Reduction, Stream]:
    """Lays the survivors out, left-padded, and says how to get there.

    Args:
        stream: the sequence as it enters the layer.
        plan: clusters of its audio tokens, [clips, N].
        survivors: clusters of each clip, on the host.
    """
    spans = stream.spans
    device = plan.cluster.device
    batch = len(stream.lengths)
    columns, real = spans.columns()
    rows = spans.sample.unsqueeze(1).expand_as(columns)
    kept = real & (plan.cluster >= 0)
    clusters = max(survivors)

    # A cluster stands where its first token stood.
    steps = torch.arange(spans.longest, device=device).expand_as(columns)
    slot = plan.cluster.where(kept, clusters)
    first = torch.full((len(spans.tokens), clusters + 1), spans.longest, device=device)
    first.scatter_reduce_(1, slot, steps, "amin")
    head = first.gather(1, slot)
    is_head = kept & (head == steps)

    present = stream.valid
    if present is None:
        present = torch.ones(batch, stream.width, dtype=torch.bool, device=device)
    emitted = put(present, rows, columns, real, is_head)

    audio, left = spans.per_sample(batch), spans.per_sample(batch, survivors)
    lengths = tuple(n - a + s for n, a, s in zip(stream.lengths, audio, left, strict=True))
    width = max(lengths)

    order = emitted.cumsum(1)
    padding = width - order[:, -1:]
    place = order - 1 + padding
    destination = place[rows, spans.start.unsqueeze(1) + head.where(kept, 0)].where(kept, width)
    target = put(place.where(emitted, width), rows, columns, real, destination)

    old = torch.arange(stream.width, device=device).expand(batch, -1)
    source = torch.zeros(batch, width + 1, dtype=torch.int64, device=device)
    source.scatter_(1, place.where(emitted, width), old)
    filled = torch.arange(width, device=device) >= padding if min(lengths) != width else None

    share = None
    if plan.merges:
        weight = (real.float() if plan.weight is None else plan.weight.float()).where(kept, 0.0)
        # A cluster whose weights are all zero takes the plain mean.
        total = torch.zeros(first.shape, device=device).scatter_add(1, slot, weight)
        weight = weight.masked_fill(total.gather(1, slot) == 0, 1.0)
        total = torch.zeros(first.shape, device=device).scatter_add(1, slot, weight)
        mean = weight / total.gather(1, slot)
        share = put(torch.ones(batch, stream.width, device=device), rows, columns, real, mean)
    start = (order - emitted.long() + padding)[spans.sample, spans.start]
    after = spans.reduced(start, is_head.sum(1), tuple(survivors))
    return Reduction(target, source[:, :width], share, width, filled), Stream(lengths, width, filled, after)
