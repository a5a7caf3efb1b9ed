"""Numbers that follow the content of clips alone, of which noise is made."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadasp.engine.spans import AudioSpans


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 (wrapping multiplication; shifts made logical by masks)."""
    x = x + -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def fingerprint_clips(embeds: Tensor, spans: AudioSpans) -> Tensor:
    """A number for each clip that follows its content: embeddings [B, T, D] -> int64 [clips].

    Made of eight coarsely rounded sums, so that rounding differences between a padded batch and a sample alone do not
    change it: a few channels, centred and scaled, under two fixed patterns of signs.
    """
    columns, valid = spans.columns()
    real, count = valid.unsqueeze(-1), valid.sum(1).view(-1, 1, 1)
    few = embeds[..., :4][spans.sample.unsqueeze(1), columns].float() * real
    size = (few.square().sum((1, 2), keepdim=True) / (4 * count)).sqrt()
    centred = (few - few.sum(1, keepdim=True) / count) * real
    spread = (centred.square().sum(1, keepdim=True) / count).sqrt()
    hashed = mix(torch.arange(spans.longest, device=valid.device))
    signs = [1.0 - 2.0 * ((hashed >> bit) & 1) for bit in (11, 37)]
    unit = centred / spread.maximum(1e-3 * size).clamp_min(1e-12)
    sums = torch.stack([(unit * sign.unsqueeze(1)).sum(1) for sign in signs], 1) / count.sqrt()
    key = mix(count.flatten())
    for part in (4 * sums).round().to(torch.int64).flatten(1).unbind(1):
        key = mix(key ^ part)
    return key
