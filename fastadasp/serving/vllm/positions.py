"""Positions of a prompt whose clips are short, and places of survivors that travel with their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_STEP = 256  # bfloat16 holds whole numbers up to this
_CHANNELS = 2


@dataclass(frozen=True)
class Clip:
    """A clip in a prompt.

    Attributes:
        columns: where its survivors stand in the prompt.
        tokens: its audio tokens before the strategy.
    """

    columns: Sequence[int]
    tokens: int


def rows(length: int, clips: Sequence[Clip], *, wait: bool = False) -> tuple[Tensor, int]:
    """Positions int64 [3, length], and how far the last is ahead of `length` - 1.

    Survivors stand at equal steps over their clip's span. With `wait`, for places that are known later, row 1 tells
    where their clip begins.
    """
    steps = torch.ones(length, dtype=torch.int64)
    for clip in clips:
        if clip.columns:
            steps[clip.columns[-1]] += clip.tokens - len(clip.columns)
    row = steps.cumsum(0) - steps
    base = row.clone()
    for clip in clips:
        if clip.columns:
            at, count = torch.tensor(clip.columns), len(clip.columns)
            start = row[at[0]].clone()
            row[at] = start + torch.arange(count) * clip.tokens // count
            base[at] = start
    ahead = int(steps.sum()) - length
    return torch.stack([row, base if wait else row, row]), ahead


def pack(features: Tensor, places: Tensor) -> Tensor:
    """Features [M, D] with their places int64 [M] in two more channels, each exact in any float type: [M, D + 2]."""
    high, low = (places // _STEP).to(features.dtype), (places % _STEP).to(features.dtype)
    return torch.cat([features, high.unsqueeze(1), low.unsqueeze(1)], 1)


def places_of(clips: Sequence[Tensor]) -> Tensor:
    """The places that `pack` put there, of all clips: int64 [tokens]."""
    channels = torch.cat([clip[:, -_CHANNELS:] for clip in clips]).float().round().long()
    return channels[:, 0] * _STEP + channels[:, 1]
