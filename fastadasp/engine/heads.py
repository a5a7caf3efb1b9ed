"""Key/value eviction: each head's own view of the audio tokens, and a cache layer that keeps what each head chose."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from fastadasp.engine.cache import Keys
from fastadasp.engine.fingerprints import mix
from fastadasp.engine.spans import AudioSpans
from fastadasp.engine.stream import put
from fastadasp.engine.view import LayerView
from fastadasp.errors import ModelError, StrategyError

EVICTABLE = ("DynamicLayer", "FirstLayer", "GrowingLayer", "DynamicSlidingWindowLayer", "ShortLayer")
"""Kinds of cache layers that can lose keys."""


@dataclass
class HeadView(LayerView):
    """A layer as each of its key/value heads sees it: one row a clip and head, the heads of a clip side by side.

    Queries are those that share the head's keys; hidden states are the whole layer's.

    Attributes:
        of: the view with one row a clip.
        again: whether keys will go again while the answer grows, when hidden states are not known any more.
    """

    of: LayerView | None = None
    again: bool = False

    @property
    def whole(self) -> LayerView:
        """The view with one row a clip."""
        if self.of is None:
            raise StrategyError("a view by heads is made by the engine from a view of the layer")
        return self.of

    def by_row(self, scores: Tensor) -> Tensor:
        """Each head's own scores: [clips, heads, N] -> [clips x heads, N]."""
        return scores.flatten(0, 1)

    @property
    def hidden(self) -> Tensor:
        """The audio tokens' hidden states, repeated for each head: [clips x heads, N, D]."""
        if self.again:
            raise StrategyError(
                "a scorer or merger that looks at hidden states cannot be asked again while the answer grows (every): "
                "a cache holds keys and values alone"
            )
        return self._repeat(self.whole.hidden)

    def text(self, asker: str = "the strategy") -> tuple[Tensor, Tensor]:
        """The whole layer's text tokens, repeated for each head."""
        states, valid = self.whole.text(asker)
        return self._repeat(states), self._repeat(valid)

    def text_columns(self, asker: str) -> tuple[Tensor, Tensor]:
        """Those of the whole layer, repeated for each head."""
        columns, valid = self.whole.text_columns(asker)
        return self._repeat(columns), self._repeat(valid)

    def last_tokens(self, count: int) -> tuple[Tensor, Tensor]:
        """Those of the whole layer, repeated for each head."""
        columns, valid = self.whole.last_tokens(count)
        return self._repeat(columns), self._repeat(valid)

    def tokens_from(self) -> Tensor:
        """Those of the whole layer, repeated for each head."""
        return self._repeat(self.whole.tokens_from())

    def _repeat(self, rows: Tensor) -> Tensor:
        return rows.repeat_interleave(self.heads, dim=0)


def by_head(layer: LayerView) -> HeadView:
    """The view of each key/value head, with heads in the place of samples."""
    if layer.query is None or layer.key is None:
        raise StrategyError("keys and values are evicted after a layer's attention, not before")
    batch, heads, total, dim = layer.key.shape
    grouped = layer.query.unflatten(1, (heads, -1)).flatten(0, 1)
    head = torch.arange(heads, device=layer.key.device)
    spans = layer.spans
    given = {name.name: getattr(layer, name.name) for name in fields(LayerView) if name.init}
    given |= {
        "spans": AudioSpans(
            sample=(spans.sample.unsqueeze(1) * heads + head).flatten(),
            start=spans.start.repeat_interleave(heads),
            counts=spans.counts.repeat_interleave(heads),
            tokens=tuple(n for n in spans.tokens for _ in range(heads)),
            samples=tuple(row * heads + i for row in spans.samples for i in range(heads)),
        ),
        "query": grouped,
        "key": layer.key.reshape(batch * heads, 1, total, dim),
        "key_valid": None if layer.key_valid is None else valid_by_head(layer.key_valid, heads),
        "remove": None if layer.remove is None else layer.remove.repeat_interleave(heads),
        "removals": None if layer.removals is None else tuple(n for n in layer.removals for _ in range(heads)),
        "kept": {},
        "value": None if layer.value is None else layer.value.reshape(batch * heads, 1, total, -1),
        "heads": heads,
        "encoder": None,  # the whole view has it
        "received": None,  # which is the sum over all heads
        "clip_keys": mix(layer.clip_keys.unsqueeze(1) + head).flatten(),
    }
    return HeadView(**given, of=layer)


def _longest(kept: Tensor) -> tuple[int, ...]:
    """The most keys that any head of a sample keeps, on the host: int64 [B, heads]. This waits for the device."""
    return tuple(int(n) for n in kept.amax(1).cpu())


def evict(
    cached: Any, keys: Keys, layer: LayerView, kept: Tensor, gone: tuple[int, ...], query_heads: int | None = None
) -> tuple[Keys, Tensor]:
    """Shrinks one layer's cache to what each head keeps; its memory is freed.

    Args:
        cached: the cache layer, with tensors `keys` and `values` [B, heads, columns, head_dim].
        keys: what is known of them.
        layer: the keys that may go, a row a clip (or prompt) and head.
        kept: bool [rows, N], those that stay.
        gone: how many keys each sample loses, on the host, in every head alike or on average over the heads.
        query_heads: how many query heads there are, if the key/value heads keep different numbers. Then all are as wide
            as the longest, and a mask by head hides what stands before the shorter ones.

    Returns:
        What is known of the cache now, and int64 [B, heads, columns now], the old column of each. Order is kept;
        shorter samples are padded on the left.
    """
    if type(cached).__name__ not in EVICTABLE:
        raise ModelError(
            f"keys and values cannot be evicted from a {type(cached).__name__}; use the default dynamic cache"
        )
    batch, heads, total, _ = cached.keys.shape
    columns, real, row = layer.key_columns(), layer.valid, layer.spans.sample.unsqueeze(1)
    stay = kept.new_ones(batch * heads, total) if keys.valid is None else valid_by_head(keys.valid, heads)
    stay = torch.nn.functional.pad(stay.to(kept.device), (0, 1))
    stay = put(stay, (columns + (total + 1) * row).where(real, total), kept)[:, :total]
    lengths = tuple(n - k for n, k in zip(keys.lengths, gone, strict=True))
    order = stay.cumsum(1)
    columns_held = lengths
    if query_heads is not None:  # only the device knows how many each head keeps
        columns_held = _longest(order[:, -1].view(batch, heads))
    width = max(columns_held)
    padding = width - order[:, -1:]
    place = (order - 1 + padding).where(stay, width)
    source = torch.zeros(batch * heads, width + 1, dtype=torch.int64, device=kept.device)
    source.scatter_(1, place, torch.arange(total, device=kept.device).expand_as(place))
    source = source[:, :width].view(batch, heads, width)
    chosen = source.unsqueeze(3)
    cached.keys = cached.keys.gather(2, chosen.expand(-1, -1, -1, cached.keys.shape[-1]))
    cached.values = cached.values.gather(2, chosen.expand(-1, -1, -1, cached.values.shape[-1]))
    filled = None
    if query_heads is not None:
        filled = torch.arange(width, device=kept.device) >= padding.view(batch, heads, 1)
        filled = filled.repeat_interleave(query_heads // heads, dim=1)
    elif min(lengths) != width:
        filled = torch.arange(width, device=kept.device) >= padding.view(batch, heads, 1)[:, 0]
    return replace(keys, length=width, lengths=lengths, valid=filled, plain=False, columns=columns_held), source


def valid_by_head(valid: Tensor, heads: int) -> Tensor:
    """Which keys are real, a row a sample and key/value head: [B, columns] or [B, query heads, columns] -> [B heads,
    columns]."""
    if valid.dim() == 2:
        return valid.repeat_interleave(heads, dim=0)
    return valid[:, :: valid.shape[1] // heads].flatten(0, 1)
