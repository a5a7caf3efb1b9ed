"""Attention that keys receive, streamed over blocks of queries: no [T, T] tensor is ever made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from fastadasp.contracts.workload import QUERIES_AT_ONCE
from fastadasp.engine.autocast import without_autocast
from fastadasp.engine.spans import AudioSpans
from fastadasp.kernels import cpu, kernels_for

Which = Literal["strided", "last"]
"""Which queries stand for all: every n-th, counted back from the last one, or the last ones."""

_BLOCK_ELEMENTS = 2_000_000
"""Attention weights held at once, at most (8 MB in float32; logits and weights stand side by side)."""
_NEAR_ELEMENTS = 1 << 18
"""On a CPU, weights of one step for each thread, if it can be cut so small: what stays in a core's cache."""
_ASKED = 32
"""Queries of each clip that `attention_of` asks at once."""
_Steps = Iterator[tuple[slice, slice, slice, int]]


def received_attention(
    query: Tensor,
    key: Tensor,
    scale: float,
    valid: Tensor | None = None,
    *,
    spans: AudioSpans | None = None,
    share: float = 1.0,
    which: Which = "strided",
) -> Tensor:
    """Column sums of the causal attention matrix over heads and queries (FastAdaSP's w_j).

    A block of queries sees all of its keys at once, so its softmax is exact without a second pass. Keys are not copied
    for the query heads that share them.

    Args:
        query: [B, heads, T, head_dim], after rotary embedding.
        key: [B, key/value heads, past + T, head_dim], after rotary embedding; the last T belong to the queries.
        scale: what the model multiplies the logits by.
        valid: bool [B, past + T], False for padding keys (whose queries then do not count either); None for no padding.
        spans: the audio tokens among the queries; if given, only what their keys receive is answered.
        share: fraction of each sample's queries that is asked, above 0 and at most 1; the sums are scaled up.
        which: `strided` asks every n-th query, n = 1 / share rounded; `last` asks the last ones.

    Returns:
        float32 [B, past + T], or [clips, N] with `spans`: sum over heads and queries of softmax(scale q k^T). Memory
        grows with past + T, not with its square.
    """
    length, past = query.shape[2], key.shape[2] - query.shape[2]
    step, asked = asked_queries(length, share, which)
    first = length - 1 - (asked - 1) * step  # the last query is always asked
    places, counted = torch.arange(first, length, step, device=key.device).unsqueeze(0), None
    if valid is None:
        query = query if asked == length else query[:, :, first::step]
    else:
        if asked < length:
            places = _places(valid[:, past:], step, asked, share if which == "last" else None)
            query = query.gather(2, places.clamp_min(0)[:, None, :, None].expand(-1, query.shape[1], -1, key.shape[3]))
        places = places.expand(len(key), -1)
        counted = valid[:, past:].gather(1, places.clamp_min(0)) & (places >= 0)
    kernels = None if spans is None else kernels_for(query, key)
    if kernels is not None:
        own = places + past
        received: Tensor = kernels.column_sums(query, key, scale, own, past + first, step, past, valid, counted, spans)
    else:
        received = _streamed(query, key, scale, places + past, past + first, step, valid, counted)
        if spans is not None:
            received = received[spans.sample.unsqueeze(1), spans.columns()[0] + past]
    if asked == length:
        return received
    if valid is None or counted is None:
        return received * (length / asked)
    every = valid[:, past:].sum(1, keepdim=True) / counted.sum(1, keepdim=True).clamp_min(1)
    return received * (every if spans is None else every[spans.sample])


def asked_queries(length: int, share: float, which: Which) -> tuple[int, int]:
    """The gap between two queries that are asked, and how many of `length` are."""
    if which == "last":
        return 1, math.ceil(length * share)
    step = max(1, round(1 / share))
    return step, -(-length // step)


def _places(shown: Tensor, step: int, asked: int, share: float | None) -> Tensor:
    """Where each sample's queries stand, counted back from its own last: int64 [B, asked], below 0 for none.

    With `share` a sample asks no more than this share of its own queries, `shown` bool [B, T].
    """
    columns = torch.arange(shown.shape[1], device=shown.device)
    back = torch.arange(asked - 1, -1, -1, device=shown.device)
    places = (shown * columns).amax(1, keepdim=True) - back * step
    if share is None:
        return places
    return places.masked_fill(back >= (shown.sum(1, keepdim=True).double() * share).ceil(), -1)


def _steps(batch: int, groups: int, shared: int, asked: int, total: int, first: int, gap: int, near: int) -> _Steps:
    """The stream in steps of bounded size: queries, samples, key/value heads, and how many keys are in sight."""
    rows = max(1, min(QUERIES_AT_ONCE, _BLOCK_ELEMENTS // (shared * total)))
    for begin in range(0, asked, rows):
        end = min(begin + rows, asked)
        seen = first + (end - 1) * gap + 1
        width = max(1, min(near, _BLOCK_ELEMENTS) // (shared * (end - begin) * seen))
        samples, heads = max(1, width // groups), min(width, groups)
        for sample in range(0, batch, samples):
            for head in range(0, groups, heads):
                yield slice(begin, end), slice(sample, min(sample + samples, batch)), slice(head, head + heads), seen


def _streamed(
    query: Tensor,
    key: Tensor,
    scale: float,
    own: Tensor,
    first: int,
    gap: int,
    valid: Tensor | None,
    counted: Tensor | None,
    attend: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Column sums of the queries [B, heads, asked, head_dim] whose own keys stand at `own`, int64 [B or 1, asked].

    Args:
        first, gap: where the own keys stand at most, on the host: query i's is at or before column first + i gap, and
            exactly there without padding.
        counted: bool [B, asked], False for padding queries.
        attend: values [B, key/value heads, past + T, D], and where to write the attention's output,
            [B, asked, heads, D]; only without padding.
    """
    (batch, groups, total, _), asked = key.shape, query.shape[2]
    query, shared = query.unflatten(1, (groups, -1)), query.shape[1] // groups
    columns = torch.arange(total, device=key.device)
    received = torch.zeros(batch, total, dtype=torch.float32, device=key.device)
    near = _NEAR_ELEMENTS * torch.get_num_threads() if key.device.type == "cpu" else _BLOCK_ELEMENTS
    half = key.device.type == "cpu" and key.dtype in (torch.bfloat16, torch.float16)
    wide = half and not cpu.multiplies(key.dtype)
    for rows, samples, heads, seen in _steps(batch, groups, shared, asked, total, first, gap, near):
        block, keys = query[samples, heads, :, rows], key[samples, heads, :seen]
        if wide:
            block, keys = block.float(), keys.float()
        logits = _product((block * scale).flatten(2, 3), keys.transpose(-1, -2))
        logits = logits.unflatten(2, (shared, rows.stop - rows.start))  # [samples, heads, shared, rows, keys]
        if valid is None or counted is None:
            clear = first + rows.start * gap + 1  # columns before are in sight of all of the block's queries
            hidden = columns[clear:seen] > own[0, rows].unsqueeze(1)
            logits[..., clear:].masked_fill_(hidden, float("-inf"))
            weights = logits.softmax(-1, dtype=torch.float32)
        else:
            hidden = (columns[:seen] > own[samples, rows].unsqueeze(-1)) | ~valid[samples, None, :seen]
            logits.masked_fill_(hidden[:, None, None], float("-inf"))
            weights = logits.softmax(-1, dtype=torch.float32)
            weights = weights.masked_fill(~counted[samples, None, None, rows].unsqueeze(-1), 0.0)
        received[samples, :seen] += weights.sum((1, 2, 3))
        if attend is not None:
            values, out = attend[0][samples, heads, :seen], attend[1].unflatten(2, (groups, shared))
            mean = _product(weights.flatten(2, 3).to(block.dtype), values.to(block.dtype))
            out[samples, rows, heads] = mean.unflatten(2, (shared, -1)).permute(0, 3, 1, 2, 4).to(out.dtype)
    return received


def _product(left: Tensor, right: Tensor) -> Tensor:
    """The product of the last two axes of tensors with two leading ones, [samples, heads].

    That of two matrices reads the keys where they lie; in half precision that of several copies them first.
    """
    if left.shape[:2] == (1, 1):
        return torch.matmul(left[0, 0], right[0, 0])[None, None]
    return torch.matmul(left, right)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Causal attention and what each key receives of it, in one stream over blocks of queries.

    On a CPU that is much less than torch's attention and scores apart: one product of queries and keys serves both.

    Args:
        query: [B, heads, T, head_dim]; key: [B, key/value heads, T, head_dim]; value: the same with D. No padding.
        scale: of the logits.

    Returns:
        The output, [B, T, heads, D] in the dtype of the queries, and float32 [B, T]: the sum over heads and queries of
        the attention weights, as `received_attention` gives it. Neither carries a gradient.
    """
    batch, heads, length, _ = query.shape
    out = query.new_empty(batch, length, heads, value.shape[-1])
    own = torch.arange(length, device=query.device).unsqueeze(0)
    with without_autocast(query.device):
        return out, _streamed(query, key, scale, own, 0, 1, None, None, (value, out))


def can_attend(query: Tensor, key: Tensor) -> bool:
    """Whether `attend` may take the place of a causal attention without a mask: a whole prompt, no gradient, a CPU."""
    learning = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    own = key.device.type == "cpu" and kernels_for(query, key) is None
    return own and not learning and 1 < query.shape[2] == key.shape[2]


def attention_of(
    query: Tensor, key: Tensor, scale: float, key_valid: Tensor | None, sample: Tensor, asked: Tensor, share: Tensor
) -> Tensor:
    """Attention of some queries to every key, added up by shares: float32 [clips, heads, past + T].

    Args:
        query: [B, heads, T, head_dim].
        key: [B, key/value heads, past + T, head_dim].
        scale: of the logits.
        key_valid: bool [B, past + T], False for padding, or [B, heads, past + T]; None where there is none.
        sample: int64 [clips], the batch row of each clip.
        asked: int64 [clips, M], columns among the T of the queries asked.
        share: float32 [clips, M], how much each counts.
    """
    groups, total = key.shape[1], key.shape[2]
    past = total - query.shape[2]
    key, columns = key[sample], torch.arange(total, device=key.device)
    padding = None
    if key_valid is not None:
        padding = ~key_valid[sample]
        padding = padding[:, None, None] if padding.dim() == 2 else padding.unflatten(1, (groups, -1))
        padding = padding.unsqueeze(3)
    out = torch.zeros(len(asked), query.shape[1], total, dtype=torch.float32, device=key.device)
    for begin in range(0, asked.shape[1], _ASKED):
        block = asked[:, begin : begin + _ASKED]
        chosen = query[sample.unsqueeze(1), :, block].transpose(1, 2).unflatten(1, (groups, -1))
        logits = torch.matmul(chosen * scale, key.unsqueeze(2).transpose(-1, -2))  # [clips, groups, each, block, keys]
        own = (block + past).unsqueeze(-1)
        hidden = (columns > own)[:, None, None]
        if padding is not None:
            hidden = (hidden | padding) & (columns != own)[:, None, None]  # a query of padding sees itself
        weights = logits.masked_fill(hidden, float("-inf")).softmax(-1, dtype=torch.float32)
        out = out + (weights.flatten(1, 2) * share[:, None, begin : begin + _ASKED, None]).sum(2)
    return out
