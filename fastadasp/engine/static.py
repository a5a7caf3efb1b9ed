"""Static caches, for compiled decoding: after a prompt each layer keeps room for its own keys alone.

`generate` and the models size a static cache, and the mask over it, for the prompt as it was. A layer that holds fewer
keys puts them right before the columns of the answer. So its columns are the last ones of the model's cache, its mask
is the end of the model's mask, and the step that writes an answer's token is the same for prompts of all lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastadasp.engine.cache import Keys
from fastadasp.errors import ModelError
from fastadasp.upstream.inside import StaticLayer

_ROOM = 64
"""Columns are allotted in steps, so that prompts of like length share what was compiled."""


class ShortLayer(StaticLayer):
    """A static cache layer with fewer columns than the model was told.

    Until `settle` it holds a prompt's keys as they come. Afterwards:

    Attributes:
        keys, values: [B, heads, columns, head_dim].
        valid: bool [B, columns] or [B, query heads, columns], False for what is to be ignored of the prompt's part.
    """

    keys: Tensor
    values: Tensor
    valid: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        new = key_states.shape[-2]
        place = torch.arange(new, device=self.keys.device) + (self.cumulative_length + self.shift)
        self.cumulative_length.add_(new)
        self.keys.index_copy_(2, place, key_states)
        self.values.index_copy_(2, place, value_states)
        return self.keys, self.values

    @property
    def shift(self) -> int:
        """From a column of the model's cache to the layer's own."""
        return int(self.keys.shape[2]) - self.max_cache_len

    def settle(self, held: Keys, seen: int, columns: int) -> None:
        """After a prompt of `seen` tokens: its keys move to their place among `columns`, before those of the answer."""
        self.dtype, self.device = self.keys.dtype, self.keys.device
        self.batch_size, self.num_heads, _, self.k_head_dim = self.keys.shape
        self.v_head_dim = self.values.shape[-1]
        end = columns - (self.max_cache_len - seen)
        self.keys, self.values = (_placed(states, end, columns) for states in (self.keys, self.values))
        rows = (self.batch_size,) if held.valid is None else held.valid.shape[:-1]
        self.valid = torch.ones(*rows, columns, dtype=torch.bool, device=self.device)
        self.valid[..., : end - held.length] = False
        if held.valid is not None:
            self.valid[..., end - held.length : end] = held.valid
        self.cumulative_length = torch.full_like(self.cumulative_length, seen, device=self.device)
        for tensor in (self.keys, self.values, self.valid, self.cumulative_length):
            torch._dynamo.mark_static_address(tensor)  # as transformers marks its own: CUDA graphs need it
        self.is_initialized = True

    def reset(self) -> None:
        raise ModelError("a static cache that a strategy has shortened cannot be used again; make a new one")

    def mask(self, given: Any) -> Any:
        """The layer's mask, of the model's [B, 1, T, columns of the cache]: bool, or additive."""
        valid = self.valid[:, None, None] if self.valid.dim() == 2 else self.valid[:, :, None]
        own = given[..., -self.valid.shape[-1] :]
        if own.dtype == torch.bool:
            return own & valid
        return own.masked_fill(~valid, torch.finfo(own.dtype).min)


def _placed(states: Tensor, end: int, columns: int) -> Tensor:
    room = states.new_zeros(*states.shape[:2], columns, states.shape[3])
    room[:, :, end - states.shape[2] : end] = states
    return room


def is_fresh(cache: Any) -> bool:
    """Whether `cache` is a static cache that nothing was written to, of the kind that can be shortened."""
    layers = getattr(cache, "layers", ())
    fresh = all(type(layer) is StaticLayer and not layer.is_initialized for layer in layers)
    return bool(layers) and fresh and not cache.offloading


def shorten(cache: Any) -> None:
    """Makes a fresh static cache one whose layers take what they get."""
    cache.layers = [ShortLayer(layer.max_cache_len) for layer in cache.layers]


def settle(cache: Any, keys: Sequence[Keys], seen: int, allotted: list[int]) -> None:
    """After a prompt: every layer gets its room.

    Args:
        keys: what each layer holds.
        seen: tokens of the prompt.
        allotted: columns of each layer after earlier prompts, empty before the first; brought up to date. They only
            grow, so that what was compiled for them fits later prompts.
    """
    for index, (layer, held) in enumerate(zip(cache.layers, keys, strict=True)):
        needed = held.length + layer.max_cache_len - seen
        rounded = -(-needed // _ROOM) * _ROOM
        # A shortened layer never has the plain one's columns: without its own mask, outside `apply`, it must not fit.
        limit = layer.max_cache_len - (held.length < seen)
        columns = min(max(rounded, allotted[index] if index < len(allotted) else 0), limit)
        layer.settle(held, seen, columns)
        allotted[index : index + 1] = [columns]


def settled(cache: Any, index: int = 0) -> ShortLayer | None:
    """A layer of a static cache that was shortened; None for any other."""
    layers = getattr(cache, "layers", ())
    layer = layers[index] if index < len(layers) else None
    return layer if isinstance(layer, ShortLayer) and layer.is_initialized else None


def padding_mask(mask: Any, length: int) -> Any:
    """The padding that a ready mask of a prompt of `length` tokens tells of: bool [B, length]; None without one.

    `generate` makes such masks for static caches: [B, 1, length, columns], by layer type where there are several.
    """
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    if not isinstance(mask, Tensor) or mask.dim() == 2:
        return mask
    last: Tensor = mask[:, 0, -1, :length]  # what the last token sees: all that is no padding
    return last if last.dtype == torch.bool else last == 0
