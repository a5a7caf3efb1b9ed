"""The token stream between two layers, and its reduction by a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastadasp.engine.plan import TokenPlan
from fastadasp.engine.spans import AudioSpans
from fastadasp.kernels import kernels_for


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
class Members:
    """Whose mean each survivor is; tokens in the order of their clusters, so that one pass over them makes all means.

    Attributes:
        token: int64 [B * T], tokens of the flattened batch sorted by their new column, row by row.
        share: float32 [B * T], each one's share of its cluster's mean (the shares of a cluster sum to 1).
        start: int64 [B * (width + 1) + 1], where each column's tokens begin; a row's last column holds those that are
            gone.
    """

    token: Tensor
    share: Tensor
    start: Tensor

    @classmethod
    def of(cls, target: Tensor, weight: Tensor, width: int) -> Members:
        """From each token's new column, int64 [B, T] (`width`: gone), and its weight, float32 [B, T].

        A cluster whose weights are all zero takes the plain mean.
        """
        batch, length = target.shape
        rows = torch.arange(batch, device=target.device).unsqueeze(1)
        column, order = target.sort(dim=1, stable=True)
        edges = torch.arange(width + 1, device=target.device).expand(batch, -1).contiguous()
        start = (torch.searchsorted(column, edges) + length * rows).flatten()
        start = torch.nn.functional.pad(start, (0, 1), value=target.numel())
        token, bag = (order + length * rows).flatten(), (column + (width + 1) * rows).flatten()
        weight, total = weight.flatten()[token], _sums(weight.flatten(), token, start)[bag]
        return cls(token, torch.where(total == 0, 1 / start.diff()[bag], weight / total), start)

    def sums(self, values: Tensor, width: int) -> Tensor:
        """Each column's plain sum: float32 [B, T] -> [B, width]."""
        return _sums(values.flatten(), self.token, self.start).view(len(values), width + 1)[:, :width]


def _sums(values: Tensor, token: Tensor, start: Tensor) -> Tensor:
    """Sums of the tokens between two starts, in their order on any device: [B * T] -> [starts - 1]."""
    bags = torch.nn.functional.embedding_bag(token, values.unsqueeze(1), start, mode="sum", include_last_offset=True)
    sums: Tensor = bags.squeeze(1)
    return sums


@dataclass(frozen=True)
class Reduction:
    """R and S of one plan: `reduce` takes a sequence to its clusters, `expand` gives each token its cluster's value.

    R S = 1 on clusters, which is what lets a reduction act between a block's attention and its MLP from outside.

    Attributes:
        target: int64 [B, T], the new column of each token; `width` for a token that is gone.
        source: int64 [B, width], the old column of each survivor (its cluster's first token).
        members: the means; None if nothing merges.
        width: columns of the reduced sequence.
        filled: bool [B, width], False for left padding; None if no sample is padded.
    """

    target: Tensor
    source: Tensor
    members: Members | None
    width: int
    filled: Tensor | None

    def select(self, x: Tensor) -> Tensor:
        """Survivors' own rows: [B or 1, T, ...] -> [B, width, ...]."""
        return take_rows(x, self.source)

    def reduce(self, h: Tensor) -> Tensor:
        """R h: hidden states [B, T, D] -> [B, width, D]; float32 sums, the input's dtype. Padding columns are zero."""
        if self.members is None:
            out = self.select(h)
            return out if self.filled is None else out * self.filled.unsqueeze(-1)
        return mean_of_members(h, self.members, self.width)

    def expand(self, m: Tensor) -> Tensor:
        """S m: [B, width, D] -> [B, T, D]; tokens that are gone get some row, which `reduce` ignores."""
        return take_rows(m, self.target.clamp(max=self.width - 1))

    def add_up(self, scores: Tensor, before: AudioSpans, after: AudioSpans) -> Tensor:
        """Scores of the clips' survivors, each the sum of its cluster's: float32 [clips, N] -> [clips, N after]."""
        columns, real = before.columns()
        rows = before.sample.unsqueeze(1).expand_as(columns)
        whole = put(scores.new_zeros(self.target.shape), rows, columns, real, scores)
        sums = whole.gather(1, self.source) if self.members is None else self.members.sums(whole, self.width)
        return sums[after.sample.unsqueeze(1), after.columns()[0]]


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Each sample's rows `index` [B, M] of x [B or 1, T, ...]: [B, M, ...]. Whole rows are copied, not elements."""
    if x.shape[0] > 1:
        index = index + x.shape[1] * torch.arange(len(index), device=index.device).unsqueeze(1)
    rows: Tensor = x.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, index.shape)
    return rows


def mean_of_members(h: Tensor, members: Members, width: int) -> Tensor:
    """Every cluster's weighted mean, [B, T, D] -> [B, width, D], in one pass over `h`.

    Sums are in float32 and in the order of the tokens, whatever the device: nothing is added up by atomics.
    """
    kernels = kernels_for(h)
    if kernels is not None:
        by_kernel: Tensor = kernels.means(h, members.token, members.share, members.start, width)
        return by_kernel
    flat = h.flatten(0, 1).float()
    sums = torch.nn.functional.embedding_bag(
        members.token, flat, members.start, mode="sum", per_sample_weights=members.share, include_last_offset=True
    )
    means: Tensor = sums.view(len(h), width + 1, -1)[:, :width].to(h.dtype)
    return means


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

    members = None
    if plan.merges:
        weight = real.float() if plan.weight is None else plan.weight.float()
        weights = put(torch.ones(batch, stream.width, device=device), rows, columns, real, weight)
        members = Members.of(target, weights, width)
    start = (order - emitted.long() + padding)[spans.sample, spans.start]
    after = spans.reduced(start, is_head.sum(1), tuple(survivors))
    return Reduction(target, source[:, :width], members, width, filled), Stream(lengths, width, filled, after)
