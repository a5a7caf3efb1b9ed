"""Attention that keys receive, streamed over blocks of queries: no [T, T] tensor is ever made."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 4_000_000
"""Attention weights held at once, over batch and heads (16 MB in float32)."""


def received_attention(query: Tensor, key: Tensor, scale: float, valid: Tensor | None = None) -> Tensor:
    """Column sums of the causal attention matrix over heads and queries (FastAdaSP's w_j).

    Args:
        query: [B, heads, T, head_dim], after rotary embedding.
        key: [B, key/value heads, past + T, head_dim], after rotary embedding; the last T belong to the queries.
        scale: what the model multiplies the logits by.
        valid: bool [B, past + T], False for padding keys (whose queries then do not count either); None for no padding.

    Returns:
        float32 [B, past + T]: sum over heads and queries of softmax(scale q k^T). Memory grows with past + T, not with
        its square.
    """
    batch, heads, length, dim = query.shape
    groups, total = key.shape[1], key.shape[2]
    past = total - length
    query = query.reshape(batch, groups, heads // groups, length, dim)
    keys = key.transpose(-1, -2)
    block = max(1, min(length, _BLOCK_ELEMENTS // (batch * heads * total)))
    columns = torch.arange(total, device=key.device)
    received = torch.zeros(batch, total, dtype=torch.float32, device=key.device)
    for begin in range(0, length, block):
        end = min(begin + block, length)
        seen = past + end  # keys after the block's last query are out of its sight
        rows = query[:, :, :, begin:end].flatten(2, 3)
        logits = torch.matmul(rows * scale, keys[..., :seen]).view(batch, groups, -1, end - begin, seen)
        hidden = columns[:seen] > torch.arange(past + begin, seen, device=key.device).unsqueeze(1)
        if valid is not None:
            hidden = (hidden | ~valid[:, None, :seen])[:, None, None]
        weights = logits.masked_fill(hidden, float("-inf")).softmax(-1, dtype=torch.float32)
        if valid is not None:
            counted = valid[:, None, None, past + begin : seen, None]
            weights = weights.masked_fill(~counted, 0.0)
        received[:, :seen] += weights.sum(dim=(1, 2, 3))
    return received
