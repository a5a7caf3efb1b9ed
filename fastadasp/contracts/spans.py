"""Which clip each position of a prompt belongs to, as numbers: for adapters of model families."""

from __future__ import annotations

import torch
from torch import Tensor


def number_runs(mask: Tensor) -> Tensor:
    """Numbers the runs of True in each row 1, 2, ...; 0 elsewhere: bool [B, T] -> int64 [B, T]."""
    before = torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    return (mask & ~before).cumsum(1) * mask


def number_clips(mask: Tensor, lengths: Tensor) -> Tensor:
    """Numbers the clips of a batch 1, 2, ... where their lengths are known; 0 elsewhere.

    Args:
        mask: bool [B, T], True for audio; the clips follow one another, row by row.
        lengths: int [clips], audio tokens of each clip; or a mask of them, [clips, tokens].

    Returns:
        int64 [B, T].
    """
    counts = (lengths if lengths.dim() == 1 else lengths.sum(-1)).to(mask.device)
    place = mask.flatten().cumsum(0) - 1
    clip = torch.searchsorted(counts.cumsum(0), place, right=True) + 1
    return clip.view_as(mask) * mask
