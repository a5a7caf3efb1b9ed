"""The token stream between two layers, and its reduction by a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastadasp.contracts.token_plan import TokenPlan
from fastadasp.engine.spans import AudioSpans
from fastadasp.kernels import cpu, kernels_for


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


_STORED = (torch.float32, torch.bfloat16, torch.float16)
"""Precisions whose states are averaged without a copy on a CPU."""
_LEAST = 1e-30
"""Added to every weight, which changes none but those that are zero: where all of a cluster are, they are equal."""


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
    def of(cls, target: Tensor, weight: Tensor, width: int, *, shares: bool = False) -> Members:
        """From each token's new column, int64 [B, T] (`width`: gone), and its weight, float32 [B, T].

        A cluster whose weights are all zero takes the plain mean. With `shares` weights are taken as they are.
        """
        weight = weight.flatten() + _LEAST
        columns = len(target) * (width + 1)
        edges = torch.arange(columns + 1, device=target.device)
        new = (target + edges[: columns : width + 1].unsqueeze(1)).flatten()
        column, token = new.sort(stable=True)
        start = torch.searchsorted(column, edges)
        if shares:
            return cls(token, weight.index_select(0, token), start)
        total = _sums(weight, token, start)
        return cls(token, weight.index_select(0, token) / total.index_select(0, column), start)

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
        batch, length = self.target.shape
        scores = scores.to(self.target.device)  # they may have been made on another device, by an earlier layer
        whole = put(scores.new_zeros(batch, length + 1), places(before, length), scores)[:, :length]
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
    flat = h.flatten(0, 1)
    learning = torch.is_grad_enabled() and (h.requires_grad or members.share.requires_grad)
    if flat.is_cpu and not learning and flat.dtype in _STORED:
        sums = cpu.bag_sums(flat, members.token, members.share, members.start)
    else:
        sums = torch.nn.functional.embedding_bag(
            members.token, flat.float(), members.start, mode="sum", per_sample_weights=members.share,
            include_last_offset=True,
        )  # fmt: skip
    means: Tensor = sums.view(len(h), width + 1, -1)[:, :width].to(h.dtype)
    return means


def places(spans: AudioSpans, width: int) -> Tensor:
    """Where the clips' tokens stand in a flattened [B, width + 1] whose last column takes padding: int64 [clips, N]."""
    columns, real = spans.columns()
    return (columns + (width + 1) * spans.sample.unsqueeze(1)).where(real, width)


def put(wide: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """`wide` [B, width + 1] with `values` [clips, N] written, in place, to their `places`."""
    wide.view(-1).scatter_(0, places.flatten(), values.flatten())
    return wide


def apply_plan(stream: Stream, plan: TokenPlan, survivors: Sequence[int]) -> tuple[Reduction, Stream]:
    """Lays the survivors out, left-padded, and says how to get there.

    Args:
        stream: the sequence as it enters the layer.
        plan: clusters of its audio tokens, [clips, N].
        survivors: clusters of each clip, on the host.
    """
    spans, device = stream.spans, plan.cluster.device
    batch, length = len(stream.lengths), stream.width
    at = places(spans, length)

    # Clusters count in the order of their first tokens, so a first token's number is above all before it.
    cluster = plan.cluster.where(spans.columns()[1], -1)
    before = torch.nn.functional.pad(cluster.cummax(1).values[:, :-1], (1, 0), value=-1)
    is_head = cluster > before
    if stream.valid is None:
        present = torch.ones(batch, length + 1, dtype=torch.bool, device=device)
    else:
        present = torch.nn.functional.pad(stream.valid, (0, 1))
    emitted = put(present, at, is_head)

    audio, left = spans.per_sample(batch), spans.per_sample(batch, survivors)
    lengths = tuple(n - a + s for n, a, s in zip(stream.lengths, audio, left, strict=True))
    width = max(lengths)

    # A cluster stands where its first token stood, and a clip's survivors side by side.
    order = emitted.cumsum(1)
    padding = width - order[:, length - 1 : length]
    place = order + padding - emitted.long()
    start = place[spans.sample, spans.start]
    stays = place.where(emitted, width)
    destination = (start.unsqueeze(1) + cluster).where(cluster >= 0, width)
    target = put(stays.clone(), at, destination)[:, :length]

    source = torch.zeros(batch, width + 1, dtype=torch.int64, device=device)
    source.scatter_(1, stays[:, :length], torch.arange(length, device=device).expand(batch, -1))
    filled = torch.arange(width, device=device) >= padding if min(lengths) != width else None

    members = None
    if plan.merges:
        weights = torch.ones(batch, length + 1, dtype=torch.float32, device=device)
        if plan.weight is not None:
            put(weights, at, plan.weight.float())
        members = Members.of(target, weights[:, :length], width, shares=plan.shares)
    after = spans.reduced(start, is_head.sum(1), tuple(survivors))
    return Reduction(target, source[:, :width], members, width, filled), Stream(lengths, width, filled, after)
