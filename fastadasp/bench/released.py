"""The released method as its formulas say, for comparison: one attention matrix, one loop over the tokens.

Written from FastAdaSP's formulas (Lu et al., EMNLP 2024), not from its code: w_j is the column sum of the attention
matrix over heads and queries, s_i the cosine of neighbouring keys with heads concatenated, the k most alike neighbours
join, and a run of joined neighbours becomes sum w_j h_j / sum w_j.
"""

from __future__ import annotations

import torch
from torch import Tensor


def received(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """w_j from the whole causal attention matrix: [1, heads, T, d] -> [T]."""
    length = query.shape[2]
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    hidden = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    logits = (torch.matmul(query, key.transpose(-1, -2)) * scale).masked_fill(hidden, float("-inf"))
    weights = torch.softmax(logits, dim=-1, dtype=torch.float32).to(query.dtype)
    return weights.sum((0, 1, 2), dtype=torch.float32)


def affinity(key: Tensor) -> Tensor:
    """s_i: [1, key/value heads, N, d] -> [N - 1]."""
    flat = key[0].transpose(0, 1).flatten(1).float()
    return torch.cosine_similarity(flat[:-1], flat[1:], dim=-1)


def merge(states: Tensor, similar: Tensor, weight: Tensor, remove: int) -> Tensor:
    """The audio tokens' states [N, D] -> [N - remove, D]: a walk over the tokens that closes a cluster at each gap."""
    joined = torch.zeros(len(states) - 1, dtype=torch.bool, device=states.device)
    joined[similar.topk(remove).indices] = True
    out, members, weights = list[Tensor](), [states[0]], [weight[0]]
    for i in range(1, len(states)):
        if not joined[i - 1]:
            out.append(_mean(members, weights))
            members, weights = [], []
        members.append(states[i])
        weights.append(weight[i])
    out.append(_mean(members, weights))
    return torch.stack(out).to(states.dtype)


def _mean(members: list[Tensor], weights: list[Tensor]) -> Tensor:
    """sum w_j h_j / sum w_j of one cluster."""
    share = torch.stack(weights)
    return (share.unsqueeze(1) * torch.stack(members)).sum(0) / share.sum()


def matrix_bytes(heads: int, tokens: int, dtype: torch.dtype) -> int:
    """What `received` holds at its peak: logits, their masked copy or the weights in float32, and the weights."""
    return heads * tokens * tokens * (2 * dtype.itemsize + 4)
