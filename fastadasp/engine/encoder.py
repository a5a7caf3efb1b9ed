"""What the audio encoder's last layer attended to, summed up by audio token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Heads = Literal["mean", "max"]
"""How heads are put together, each weight by itself: their mean, or their maximum."""
Frames = Literal["all", "valid", "tokens"]
"""Which frames are asked what they attend to: all, padding included; those of the recording; or those that became audio
tokens (an odd last frame did not)."""

_ELEMENTS = 2_000_000
"""Attention weights held at once, at most."""


@dataclass(frozen=True)
class EncoderSeen:
    """The last attention of the audio encoder, by clip and audio token; a token is `frames` neighbouring frames.

    Attributes:
        received: float32 [clips, 2, 3, N], the attention that a token's frames receive from `Frames` (second axis),
        with
            heads put together as `Heads` says (first axis), summed over the frames asked and divided by `frames`.
        own: float32 [clips, 2, N], what a token's frames give to each other, the mean over the frames that ask.
        keys: float32 [clips, N, head_dim], the mean over heads and over the token's frames of the keys.
    """

    received: Tensor
    own: Tensor
    keys: Tensor

    @classmethod
    def of(cls, query: Tensor, key: Tensor, scale: float, mask: Any, frames: int) -> EncoderSeen:
        """Streamed over blocks of frames, so that no [heads, frames, frames] is kept.

        Args:
            query, key: [clips, heads, F, head_dim].
            scale: of the logits.
            mask: the attention's own, of which padding follows: [clips, 1, F or 1, F], bool or additive; [clips, F];
            None. frames: frames of a token.
        """
        clips, heads, length, _ = query.shape
        tokens = length // frames
        shown = _shown(mask, clips, length, query.device)
        counts = shown.sum(1, keepdim=True)
        steps = torch.arange(length, device=query.device)
        asked = torch.stack([torch.ones_like(shown), shown, steps < counts // frames * frames], 1).float()
        received = query.new_zeros(clips, len(get_args(Heads)), asked.shape[1], length, dtype=torch.float32)
        own = []
        rows = max(_ELEMENTS // (clips * heads * length) // frames, 1) * frames
        for begin in range(0, tokens * frames, rows):
            block = slice(begin, min(begin + rows, tokens * frames))
            weights = _weights(query[:, :, block], key, scale, shown)
            both = torch.stack([weights.mean(1), weights.amax(1)], 1)
            received += asked[:, None, :, block] @ both
            pairs = (
                both.unflatten(2, (-1, frames))[..., : tokens * frames].unflatten(-1, (tokens, frames)).sum(-1).mean(3)
            )
            mine = torch.arange(block.start // frames, block.stop // frames, device=query.device).view(1, 1, -1, 1)
            own.append(pairs.gather(3, mine.expand(clips, 2, -1, 1)).squeeze(3))
        if length > tokens * frames:
            weights = _weights(query[:, :, tokens * frames :], key, scale, shown)
            received += asked[:, None, :, tokens * frames :] @ torch.stack([weights.mean(1), weights.amax(1)], 1)
        received = received[..., : tokens * frames].unflatten(-1, (tokens, frames)).sum(-1) / frames
        keys = key.float().mean(1)[:, : tokens * frames].unflatten(1, (tokens, frames)).mean(2)
        return cls(received, torch.cat(own, 2), keys)

    @classmethod
    def together(cls, clips: Sequence[EncoderSeen]) -> EncoderSeen:
        """Those of single clips in one, filled up with zeros; the inverse of `clip`."""
        width = max(one.keys.shape[1] for one in clips)

        def pad(x: Tensor, axis: int) -> Tensor:
            missing = width - x.shape[axis]
            return torch.nn.functional.pad(x, (0,) * (2 * (x.dim() - 1 - axis)) + (0, missing))

        return cls(
            torch.cat([pad(one.received, 3) for one in clips]),
            torch.cat([pad(one.own, 2) for one in clips]),
            torch.cat([pad(one.keys, 1) for one in clips]),
        )

    def clip(self, index: int, tokens: int) -> EncoderSeen:
        """One clip's own, of its `tokens`."""
        row = slice(index, index + 1)
        return EncoderSeen(self.received[row, ..., :tokens], self.own[row, ..., :tokens], self.keys[row, :tokens])

    def to(self, device: torch.device | str) -> EncoderSeen:
        """The same on a device."""
        return EncoderSeen(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def attention(self, heads: Heads, frames: Frames) -> Tensor:
        """What each token receives, float32 [clips, N]."""
        return self.received[:, get_args(Heads).index(heads), get_args(Frames).index(frames)]

    def own_attention(self, heads: Heads) -> Tensor:
        """What each token's frames give to each other, float32 [clips, N]."""
        return self.own[:, get_args(Heads).index(heads)]


def _shown(mask: Any, clips: int, length: int, device: torch.device) -> Tensor:
    """Which frames are no padding, bool [clips, F]."""
    if mask is None:
        return torch.ones(clips, length, dtype=torch.bool, device=device)
    last: Tensor = mask if mask.dim() == 2 else mask[:, 0, 0]
    shown = last if last.dtype == torch.bool else last > -1
    return shown.expand(clips, -1)


def _weights(query: Tensor, key: Tensor, scale: float, shown: Tensor) -> Tensor:
    """Attention of some frames, float32 [clips, heads, rows, F]."""
    logits = torch.matmul(query.float() * scale, key.float().transpose(2, 3))
    return logits.masked_fill(~shown[:, None, None], float("-inf")).softmax(-1)
