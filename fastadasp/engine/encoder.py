"""What the audio encoder's last layer attended to, summed up by audio token.

An encoder may hear a recording in windows, which attend to themselves alone: the 30 seconds of Whisper, or the few
seconds of Qwen-Omni. Each window is summed up by itself (`EncoderSeen.of`), and windows are put together to clips
(`EncoderSeen.of_windows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fastadasp.errors import ModelError

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
        received: float32 [clips, 2, 3, N], the attention that a token's frames receive from `Frames` (the axis of 3),
            with heads put together as `Heads` says (the axis of 2), summed over the frames asked and divided by
            `frames`.
        own: float32 [clips, 2, N], what a token's frames give to each other, the mean over the frames that ask.
        keys: float32 [clips, N, head_dim], the mean over heads and over the token's frames of the keys.
        products: int64 [clips], the multiply-adds that this took: it is all computed beside the encoder.
    """

    received: Tensor
    own: Tensor
    keys: Tensor
    products: Tensor

    @classmethod
    def of(
        cls, query: Tensor, key: Tensor, scale: float, mask: Any, frames: int, valid: Tensor | None = None
    ) -> EncoderSeen:
        """Streamed over blocks of frames, so that no [heads, frames, frames] is kept.

        Args:
            query: [windows, heads, F, head_dim].
            key: [windows, key heads, F, head_dim]; key heads divide heads.
            scale: of the logits.
            mask: the attention's own: [windows or 1, heads or 1, F or 1, F], bool or additive; [windows, F]; None.
            frames: frames of a token.
            valid: int [windows], how many frames are of the recording, where the mask does not tell.
        """
        windows, heads, length, _ = query.shape
        key = key.repeat_interleave(heads // key.shape[1], 1)
        tokens = length // frames
        shown = _shown(mask, windows, length, query.device)
        if valid is not None:
            shown = torch.arange(length, device=query.device) < valid.to(query.device).unsqueeze(1)
        mask = mask[:, None, None].bool() if mask is not None and mask.dim() == 2 else mask
        counts = shown.sum(1, keepdim=True)
        steps = torch.arange(length, device=query.device)
        asked = torch.stack([torch.ones_like(shown), shown, steps < counts // frames * frames], 1).float()
        received = query.new_zeros(windows, len(get_args(Heads)), asked.shape[1], length, dtype=torch.float32)
        own = [received.new_zeros(windows, 2, 0)]
        rows = max(_ELEMENTS // (windows * heads * length) // frames, 1) * frames
        for begin in range(0, tokens * frames, rows):
            block = slice(begin, min(begin + rows, tokens * frames))
            weights = _weights(query[:, :, block], key, scale, _rows(mask, block))
            both = torch.stack([weights.mean(1), weights.amax(1)], 1)
            received += asked[:, None, :, block] @ both
            pairs = (
                both.unflatten(2, (-1, frames))[..., : tokens * frames].unflatten(-1, (tokens, frames)).sum(-1).mean(3)
            )
            mine = torch.arange(block.start // frames, block.stop // frames, device=query.device).view(1, 1, -1, 1)
            own.append(pairs.gather(3, mine.expand(windows, 2, -1, 1)).squeeze(3))
        if length > tokens * frames:
            last = slice(tokens * frames, length)
            weights = _weights(query[:, :, last], key, scale, _rows(mask, last))
            received += asked[:, None, :, last] @ torch.stack([weights.mean(1), weights.amax(1)], 1)
        received = received[..., : tokens * frames].unflatten(-1, (tokens, frames)).sum(-1) / frames
        keys = key.float().mean(1)[:, : tokens * frames].unflatten(1, (tokens, frames)).mean(2)
        weighed, summed = heads * query.shape[3], len(get_args(Heads)) * asked.shape[1]
        products = torch.full((windows,), (weighed + summed) * length**2, device=query.device)
        return cls(received, torch.cat(own, 2), keys, products)

    @classmethod
    def of_windows(
        cls, calls: Sequence[EncoderCall], frames: int, tokens: Sequence[int], *, hears_padding: bool = False
    ) -> EncoderSeen:
        """What is seen of clips whose encoder may have heard them in windows, in the order of the prompt.

        Args:
            calls: the attention of all windows, in order.
            frames: frames of a token.
            tokens: audio tokens of each clip.
            hears_padding: whether padding is attended to, so that no mask tells how much of a window is recording.

        Returns:
            One row a clip; or one for each window, if there was a single call and the clips are a multiple of its
            windows: then clips share recordings, as beams do.

        Raises:
            ModelError: windows and tokens do not fit together.
        """
        windows = sum(len(call.query) for call in calls)
        if len(calls) == 1 and len(tokens) % windows == 0:
            per_row = tokens[:: len(tokens) // windows]
            return calls[0].seen(frames, per_row if hears_padding else None)
        room = [n for call in calls for n in call.room(frames)]
        shares = _shares(room, tokens)
        if shares is None:
            raise ModelError(
                f"the audio encoder's {windows} windows hold up to {sum(room)} audio tokens, which do not become the "
                f"prompt's clips of {', '.join(map(str, tokens))} tokens one after the other"
            )
        given, parts = [n for share in shares for n in share], list[EncoderSeen]()
        for call in calls:
            mine, given = given[: len(call.query)], given[len(call.query) :]
            seen = call.seen(frames, mine if hears_padding else None)
            parts += [seen.clip(i, n) for i, n in enumerate(mine)]
        whole = []
        for share in shares:
            own, parts = parts[: len(share)], parts[len(share) :]
            pieces = ((one.received, one.own, one.keys.transpose(1, 2)) for one in own)
            received, mutual, keys = (torch.cat(part, -1) for part in zip(*pieces, strict=True))
            products = torch.cat([one.products for one in own]).sum().view(1)
            whole.append(cls(received, mutual, keys.transpose(1, 2), products))
        return cls.together(whole)

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
            torch.cat([one.products for one in clips]),
        )

    def clip(self, index: int, tokens: int) -> EncoderSeen:
        """One clip's own, of its `tokens`."""
        row = slice(index, index + 1)
        received, own, keys = self.received[row, ..., :tokens], self.own[row, ..., :tokens], self.keys[row, :tokens]
        return EncoderSeen(received, own, keys, self.products[row])

    def to(self, device: torch.device | str) -> EncoderSeen:
        """The same on a device."""
        return EncoderSeen(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def attention(self, heads: Heads, frames: Frames) -> Tensor:
        """What each token receives, float32 [clips, N]."""
        return self.received[:, get_args(Heads).index(heads), get_args(Frames).index(frames)]

    def own_attention(self, heads: Heads) -> Tensor:
        """What each token's frames give to each other, float32 [clips, N]."""
        return self.own[:, get_args(Heads).index(heads)]


@dataclass(frozen=True)
class EncoderCall:
    """One computation of the encoder's last attention: what `EncoderSeen.of` takes, over one or several windows."""

    query: Tensor
    key: Tensor
    scale: float
    mask: Any

    def seen(self, frames: int, tokens: Sequence[int] | None) -> EncoderSeen:
        """Summed up by token; `tokens` of each window say how much of it is recording, where no mask does."""
        valid = None if tokens is None else torch.tensor(tokens) * frames
        return EncoderSeen.of(self.query, self.key, self.scale, self.mask, frames, valid)

    def room(self, frames: int) -> list[int]:
        """The most audio tokens of each window, on the host."""
        windows, length = self.query.shape[0], self.query.shape[2]
        if self.mask is None:
            return [length // frames] * windows
        counts: list[int] = _shown(self.mask, windows, length, self.query.device).sum(1).cpu().tolist()
        return [n // frames for n in counts]


def _shares(room: Sequence[int], tokens: Sequence[int]) -> list[list[int]] | None:
    """How many tokens each window gives to its clip, by clip; None if they do not come out even.

    Every window but a clip's last is full.
    """
    shares, at = [], 0
    for wanted in tokens:
        share = list[int]()
        while sum(share) < wanted and at < len(room):
            share.append(min(wanted - sum(share), room[at]))
            at += 1
        shares.append(share)
    fits = at == len(room) and [sum(share) for share in shares] == list(tokens)
    return shares if fits else None


def _shown(mask: Any, windows: int, length: int, device: torch.device) -> Tensor:
    """Frames that are no padding as far as the mask tells, bool [windows, F]; a mask by head is a bias, not padding."""
    if mask is None or (mask.dim() == 4 and mask.shape[1] > 1):
        return torch.ones(windows, length, dtype=torch.bool, device=device)
    last: Tensor = mask if mask.dim() == 2 else mask[:, 0, 0]
    shown = last > torch.finfo(last.dtype).min / 2 if last.dtype.is_floating_point else last.bool()
    return shown.expand(windows, -1)


def _rows(mask: Any, block: slice) -> Any:
    """The mask of some queries."""
    return mask if mask is None or mask.shape[2] == 1 else mask[:, :, block]


def _weights(query: Tensor, key: Tensor, scale: float, mask: Any) -> Tensor:
    """Attention of some frames, float32 [windows, heads, rows, F]."""
    logits: Tensor = torch.matmul(query.float() * scale, key.float().transpose(2, 3))
    if mask is None:
        return logits.softmax(-1)
    if mask.dtype == torch.bool:
        return logits.masked_fill(~mask, torch.finfo(torch.float32).min).softmax(-1)
    biased: Tensor = logits + mask.float()
    return biased.softmax(-1)
