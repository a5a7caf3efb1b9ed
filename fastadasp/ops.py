"""Vectorised building blocks for scorers and mergers. One row a clip; nothing here waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def cosine_to_next(x: Tensor) -> Tensor:
    """Cosine similarity of each token to the next one: [clips, N, ...] -> float32 [clips, N - 1].

    Trailing dimensions (heads) are concatenated.
    """
    flat = x.flatten(2).float()
    unit = flat / flat.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    cosine: Tensor = (unit[:, :-1] * unit[:, 1:]).sum(-1)
    return cosine


def rank_descending(scores: Tensor) -> Tensor:
    """Rank of each entry in its row, 0 for the largest; of equals the first ranks higher: [clips, M] -> int64."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def largest(scores: Tensor, count: Tensor) -> Tensor:
    """True for the `count[c]` largest entries of row c: [clips, M], int64 [clips] -> bool [clips, M]."""
    return rank_descending(scores) < count.unsqueeze(1)


def smallest(scores: Tensor, count: Tensor) -> Tensor:
    """True for the `count[c]` smallest entries of row c: [clips, M], int64 [clips] -> bool [clips, M]."""
    return largest(-scores, count)


def clusters_from_joins(joined: Tensor, valid: Tensor) -> Tensor:
    """Cluster numbers where joined neighbours share one: bool [clips, N-1], bool [clips, N] -> int64 [clips, N].

    `joined[c, i]` puts tokens i and i+1 into one cluster. Padding gets -1.
    """
    starts = torch.nn.functional.pad(~joined, (1, 0), value=True) & valid
    return (starts.cumsum(1) - 1).masked_fill(~valid, -1)


def clusters_from_kept(kept: Tensor) -> Tensor:
    """Cluster numbers where each kept token stands alone: bool [clips, N] -> int64 [clips, N], -1 for the others."""
    return (kept.cumsum(1) - 1).masked_fill(~kept, -1)


def alternate_in_runs(marked: Tensor) -> Tensor:
    """Every other mark of each run of marks, from the run's first on: bool [clips, M] -> bool [clips, M].

    This is what a walk from left to right takes that jumps past the next mark after each one it takes.
    """
    steps = torch.arange(marked.shape[1], device=marked.device)
    gap = steps.expand_as(marked).masked_fill(marked, -1).cummax(1).values
    return marked & ((steps - gap) % 2 == 1)
