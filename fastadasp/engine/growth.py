"""What is kept in mind of caches that evict again while an answer grows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastadasp.counts.growth import Held
from fastadasp.engine.cache import CacheState, GrowingLayer, Keys
from fastadasp.engine.evicting import evictable
from fastadasp.engine.spans import send
from fastadasp.engine.stream import Stream, places, put
from fastadasp.errors import ModelError

if TYPE_CHECKING:
    from fastadasp.engine.session import Session
    from fastadasp.recipes.recipe import Recipe


@dataclass(frozen=True)
class Growth:
    """What is known on the host of a prompt whose caches evict again.

    Attributes:
        samples, numbers: of each row (a clip or, where any key may go, a prompt), its sample, and which of its clips.
        totals: tokens of each sample's prompt.
        seen: by layer, tokens of each row that its attention saw.
        held: by layer, how many of each row's keys it held when some went last; the mean over its heads.
        clip_keys: int64 [rows], what noise follows.
        grown: tokens of each sample since the prompt.
        settled: the same when keys went last.
        since: columns since keys went last.
        rounds: how often they went since the prompt.
        short: whether it was said that the budget is not met any more.
    """

    samples: tuple[int, ...]
    numbers: tuple[int, ...]
    totals: tuple[int, ...]
    seen: Held
    held: Held
    clip_keys: Tensor
    grown: tuple[int, ...]
    settled: tuple[int, ...]
    since: int = 0
    rounds: int = 0
    short: bool = False

    def repeated(self, rows: int) -> Growth:
        """The same for a batch whose samples were repeated, each row by row."""
        times = rows // len(self.totals)
        if times == 1:
            return self

        def each(values: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(n for n in values for _ in range(times))

        return replace(
            self,
            samples=tuple(row * times + i for row in self.samples for i in range(times)),
            numbers=each(self.numbers),
            totals=each(self.totals),
            seen=[each(counts) for counts in self.seen],
            held=[each(counts) for counts in self.held],
            clip_keys=self.clip_keys.repeat_interleave(times),
            grown=each(self.grown),
            settled=each(self.settled),
        )


def check_growing(session: Session, *, static: bool) -> None:
    """Refuses prompts whose caches cannot evict again. Raises ModelError."""
    if static:
        raise ModelError(
            f"strategy {session.strategy.name!r} evicts again while the answer grows (every), which a static cache, as "
            "for compiled decoding, cannot; use the default dynamic cache"
        )
    if session.exceeds_window(sys.maxsize):
        raise ModelError(
            f"strategy {session.strategy.name!r} evicts again while the answer grows (every), which layers with a "
            f"sliding window, as {type(session.decoder).__name__} has them, cannot; leave `every` out"
        )


def begin_growing(
    session: Session,
    cache: Any,
    keys: list[Keys],
    entered: list[Stream],
    past: list[int],
    chosen: Mapping[int, Any],
    tokens: int,
) -> Growth:
    """After a prompt: the layers that may evict again become such, with notes of their keys.

    Args:
        keys: what each layer's cache now holds.
        entered: the tokens that each layer's attention saw.
        past: columns of each layer's cache before the prompt.
        chosen: by layer that evicted, the old column of each key [B, heads, columns], the scores left for later by name
            [B, heads, columns], and how many keys went of each row.
        tokens: those that the cache has seen, this prompt's included.
    """
    strategy: Recipe = session.evicting  # type: ignore[assignment]  # it is what has `every`
    seen, held, samples = [], [], tuple[int, ...]()
    start = strategy.layers.start_layer(len(keys))
    for index, stream in enumerate(entered):
        spans = evictable(strategy, stream)
        source, left, gone = chosen.get(index, (None, {}, None))
        samples = spans.samples
        seen.append(spans.tokens)
        held.append(spans.tokens if gone is None else tuple(n - k for n, k in zip(spans.tokens, gone, strict=True)))
        layer = cache.layers[index]
        if index < start:
            continue
        batch, heads, device = layer.keys.shape[0], layer.keys.shape[1], layer.keys.device
        spans = spans.to(device)
        numbers = send([numbers_of(spans.samples)], device)[0].unsqueeze(1).expand(-1, spans.longest)
        clip = torch.zeros(batch, stream.width + 1, dtype=torch.int64, device=device)
        clip = put(clip, places(spans, stream.width), numbers.contiguous())[:, :-1]
        real = clip.new_ones(batch, stream.width) if stream.valid is None else stream.valid.to(device).long()
        notes = {"clip": clip, "since": real.flip(1).cumsum(1).flip(1)}
        notes = {
            name: torch.nn.functional.pad(note, (past[index], 0)).unsqueeze(1).expand(-1, heads, -1)
            for name, note in notes.items()
        }
        if source is not None:
            notes = {name: note.gather(2, source) for name, note in notes.items()}
        cache.layers[index] = GrowingLayer.of(layer, with_valid(notes | left, keys[index], heads), tokens)
    none = (0,) * len(entered[0].lengths)
    clip_keys = torch.zeros(len(samples), dtype=torch.int64)
    return Growth(samples, numbers_of(samples), entered[0].lengths, seen, held, clip_keys, none, none)


def resettled(cache: Any, known: CacheState) -> CacheState:
    """`known` after beams were reordered: the padding of heads that hold different numbers went along."""
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, GrowingLayer) and layer.moved:
            layer.moved, keys = False, known.layers[index]
            if "valid" in layer.notes and keys.valid is not None:
                own = layer.notes["valid"].repeat_interleave(
                    keys.valid.shape[1] // layer.notes["valid"].shape[1], dim=1
                )
                known.layers[index] = replace(keys, valid=torch.cat([own, keys.valid[..., own.shape[-1] :]], -1))
    return known


def spread(layer: Any, scores: Tensor, batch: int, heads: int, total: int) -> Tensor:
    """Scores of a view by heads, [rows, N], as notes of keys: [B, heads, total]."""
    wide = torch.zeros(batch * heads, total + 1, dtype=scores.dtype, device=scores.device)
    at = layer.key_columns() + (total + 1) * layer.spans.sample.unsqueeze(1)
    return put(wide, at.where(layer.valid, total), scores)[:, :total].view(batch, heads, total)


def with_valid(notes: dict[str, Tensor], keys: Keys, heads: int) -> dict[str, Tensor]:
    """The notes of keys where padding stays; with the padding itself, where heads hold different numbers."""
    if keys.valid is None:
        return notes
    ragged = keys.valid.dim() == 3
    valid = keys.valid[:, :: keys.valid.shape[1] // heads] if ragged else keys.valid.unsqueeze(1)
    valid = valid.to(notes["clip"].device)
    return notes | {"clip": notes["clip"] * valid} | ({"valid": valid} if ragged else {})


def numbers_of(samples: tuple[int, ...]) -> tuple[int, ...]:
    """Which of its sample's rows each row is, from 1 on."""
    return tuple(samples[: i + 1].count(row) for i, row in enumerate(samples))
