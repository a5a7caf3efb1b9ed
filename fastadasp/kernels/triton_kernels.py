"""Received attention, cosines of neighbouring keys, and means of clusters as Triton kernels.

Nothing is added up by atomics: each sum has one program and a fixed order, so results do not change from run to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from fastadasp.engine.spans import AudioSpans

# `WIDE` computes in float32 whatever the inputs are: the interpreter's matrix product takes no bfloat16.

_MEAN_CHANNELS = 1024
"""Channels of one program of `means`."""


@triton.jit
def _normalisers(
    query, key, own, counted, valid, out, scale, heads, shared, asked, total, dim,
    q_sample, q_head, q_row, k_sample, k_head, k_row,
    PADDED: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of each asked query's logits over the keys in its sight; inf for padding queries."""
    sample, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.arange(0, DIM)
    real = rows < asked
    at = tl.load(own + sample * asked + rows, mask=real, other=-1)
    q_at = query + sample.to(tl.int64) * q_sample + head.to(tl.int64) * q_head
    q = tl.load(
        q_at + rows[:, None].to(tl.int64) * q_row + channels[None, :],
        mask=real[:, None] & (channels[None, :] < dim), other=0.0,
    )  # fmt: skip
    if WIDE:
        q = q.to(tl.float32)
    k_at = key + sample.to(tl.int64) * k_sample + (head // shared).to(tl.int64) * k_head
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total_weight = tl.zeros([ROWS], tl.float32)
    for begin in range(0, tl.max(at) + 1, KEYS):
        columns = begin + tl.arange(0, KEYS)
        k = tl.load(
            k_at + columns[None, :].to(tl.int64) * k_row + channels[:, None],
            mask=(columns[None, :] < total) & (channels[:, None] < dim), other=0.0,
        )  # fmt: skip
        if WIDE:
            k = k.to(tl.float32)
        seen = columns[None, :] <= at[:, None]
        if PADDED:
            shown = tl.load(valid + sample * total + columns, mask=columns < total, other=0)
            seen = seen & (shown[None, :] != 0)
        logits = tl.where(seen, tl.dot(q, k, input_precision="ieee") * scale, float("-inf"))
        top = tl.maximum(largest, tl.max(logits, 1))
        safe = tl.where(top == float("-inf"), 0.0, top)
        total_weight = total_weight * tl.exp(largest - safe) + tl.sum(tl.exp(logits - safe[:, None]), 1)
        largest = top
    norm = largest + tl.log(tl.where(total_weight > 0, total_weight, 1.0))
    use = real & (total_weight > 0)
    if PADDED:
        use = use & (tl.load(counted + sample * asked + rows, mask=real, other=0) != 0)
    place = out + tl.program_id(1).to(tl.int64) * asked + rows
    tl.store(place, tl.where(use, norm, float("inf")), mask=real)


@triton.jit
def _column_sums(
    query, key, own, norm, out, sample_of, start_of, count_of, scale, heads, shared, asked, past, longest, dim,
    first, step, q_sample, q_head, q_row, k_sample, k_head, k_row,
    WIDE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """What the audio keys of one clip receive in one head; a program owns a block of keys and walks the queries."""
    clip, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    sample, count = tl.load(sample_of + clip), tl.load(count_of + clip)
    tokens = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    begin = tl.load(start_of + clip) + past + tl.program_id(0) * KEYS
    columns = begin + tl.arange(0, KEYS)
    channels = tl.arange(0, DIM)
    real = tokens < count
    k_at = key + sample * k_sample + (head // shared).to(tl.int64) * k_head
    k = tl.load(
        k_at + columns[None, :].to(tl.int64) * k_row + channels[:, None],
        mask=real[None, :] & (channels[:, None] < dim), other=0.0,
    )  # fmt: skip
    if WIDE:
        k = k.to(tl.float32)
    q_at = query + sample * q_sample + head.to(tl.int64) * q_head
    received = tl.zeros([KEYS], tl.float32)
    # query i's own key stands at first + i step at most: earlier queries see none of these keys
    blind = tl.maximum(begin - first + step - 1, 0) // step
    stop = tl.where(tl.program_id(0) * KEYS < count, asked, 0)
    for line in range((blind // ROWS * ROWS).to(tl.int32), stop.to(tl.int32), ROWS):
        rows = line + tl.arange(0, ROWS)
        there = rows < asked
        q = tl.load(
            q_at + rows[:, None].to(tl.int64) * q_row + channels[None, :],
            mask=there[:, None] & (channels[None, :] < dim), other=0.0,
        )  # fmt: skip
        if WIDE:
            q = q.to(tl.float32)
        at = tl.load(own + sample * asked + rows, mask=there, other=-1)
        lse = tl.load(norm + (sample * heads + head) * asked + rows, mask=there, other=float("inf"))
        logits = tl.dot(q, k, input_precision="ieee") * scale
        weights = tl.exp(logits - lse[:, None])
        received += tl.sum(tl.where(columns[None, :] <= at[:, None], weights, 0.0), 0)
    place = out + tl.program_id(1).to(tl.int64) * longest + tokens
    tl.store(place, tl.where(real, received, 0.0), mask=tokens < longest)


def column_sums(
    query: Tensor,
    key: Tensor,
    scale: float,
    own: Tensor,
    first: int,
    step: int,
    past: int,
    valid: Tensor | None,
    counted: Tensor | None,
    spans: AudioSpans,
) -> Tensor:
    """Attention that the audio tokens' keys receive: float32 [clips, N]; arguments as in `fastadasp.engine.received`.

    Two passes, one over queries for the softmax's denominators, one over audio keys for the sums. Only audio keys are
    visited in the second; memory is one number a query and head, and one an audio token and head.
    """
    (batch, heads, asked, dim), (_, groups, total, _) = query.shape, key.shape
    query, key = _rows_together(query), _rows_together(key)
    own = own.expand(batch, asked).contiguous()
    norm = torch.empty(batch, heads, asked, dtype=torch.float32, device=query.device)
    out = torch.empty(len(spans.tokens), heads, spans.longest, dtype=torch.float32, device=query.device)
    sizes = {
        "ROWS": 64,
        "KEYS": 64,
        "DIM": max(16, triton.next_power_of_2(dim)),
        "WIDE": triton.knobs.runtime.interpret,
    }
    strides = (*query.stride()[:3], *key.stride()[:3])
    _normalisers[(triton.cdiv(asked, sizes["ROWS"]), batch * heads)](
        query, key, own, own if counted is None else counted.contiguous(), own if valid is None else valid.contiguous(),
        norm, scale, heads, heads // groups, asked, total, dim, *strides, PADDED=valid is not None, **sizes,
    )  # fmt: skip
    _column_sums[(triton.cdiv(spans.longest, sizes["KEYS"]), len(spans.tokens) * heads)](
        query, key, own, norm, out, spans.sample, spans.start, spans.counts, scale, heads, heads // groups, asked, past,
        spans.longest, dim, first, step, *strides, **sizes,
    )  # fmt: skip
    return out.sum(1)


@triton.jit
def _cosines(
    key, out, sample_of, start_of, count_of, groups, pairs, dim, k_sample, k_head, k_row,
    BLOCK: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Cosine of each key to the next one's of its clip, heads concatenated; a program owns a block of pairs."""
    clip = tl.program_id(1)
    sample, start, count = tl.load(sample_of + clip), tl.load(start_of + clip), tl.load(count_of + clip)
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = pair + 1 < count
    channels = tl.arange(0, DIM)
    mask = real[:, None] & (channels[None, :] < dim)
    place = key + sample * k_sample + (start + pair)[:, None] * k_row + channels[None, :]
    dot = tl.zeros([BLOCK], tl.float32)
    left = tl.zeros([BLOCK], tl.float32)
    right = tl.zeros([BLOCK], tl.float32)
    for _head in range(groups):
        own = tl.load(place, mask=mask, other=0.0).to(tl.float32)
        following = tl.load(place + k_row, mask=mask, other=0.0).to(tl.float32)
        dot += tl.sum(own * following, 1)
        left += tl.sum(own * own, 1)
        right += tl.sum(following * following, 1)
        place += k_head
    norm = tl.maximum(tl.sqrt(left), 1e-12) * tl.maximum(tl.sqrt(right), 1e-12)
    tl.store(out + clip * pairs + pair, tl.where(real, dot / norm, 0.0), mask=pair < pairs)


def cosine_to_next_key(key: Tensor, spans: AudioSpans) -> Tensor:
    """As `fastadasp.engine.adjacent.cosine_to_next_key`, in one pass over the audio tokens' keys."""
    key, pairs = _rows_together(key), max(spans.longest - 1, 0)
    out = torch.empty(len(spans.tokens), pairs, dtype=torch.float32, device=key.device)
    if out.numel():
        _cosines[(triton.cdiv(pairs, 16), len(spans.tokens))](
            key, out, spans.sample, spans.start, spans.counts, key.shape[1], pairs, key.shape[3], *key.stride()[:3],
            BLOCK=16, DIM=triton.next_power_of_2(key.shape[3]),
        )  # fmt: skip
    return out


@triton.jit
def _means(states, token, share, start, out, width, dim, s_row, BLOCK: tl.constexpr):
    """The weighted mean of one cluster, in the order of its tokens, for a block of channels."""
    place = tl.program_id(0).to(tl.int64)
    bag = place // width * (width + 1) + place % width
    channels = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = channels < dim
    mean = tl.zeros([BLOCK], tl.float32)
    for i in range(tl.load(start + bag), tl.load(start + bag + 1)):
        row = tl.load(states + tl.load(token + i) * s_row + channels, mask=real, other=0.0)
        mean += row.to(tl.float32) * tl.load(share + i)
    tl.store(out + place * dim + channels, mean.to(out.dtype.element_ty), mask=real)


def means(states: Tensor, token: Tensor, share: Tensor, start: Tensor, width: int) -> Tensor:
    """Every cluster's weighted mean, [B, T, D] -> [B, width, D]: each state is read once, each mean written once.

    Args:
        token, share, start: as in `fastadasp.engine.stream.Members`.
    """
    batch, _, dim = states.shape
    flat = states.contiguous().flatten(0, 1)
    out = torch.empty(batch, width, dim, dtype=states.dtype, device=states.device)
    block = min(_MEAN_CHANNELS, triton.next_power_of_2(dim))
    grid = (batch * width, triton.cdiv(dim, block))
    _means[grid](flat, token, share, start, out, width, dim, flat.stride(0), BLOCK=block)
    return out


def _rows_together(x: Tensor) -> Tensor:
    """With channels side by side in memory, as the kernels read them."""
    return x if x.stride(-1) == 1 else x.contiguous()
