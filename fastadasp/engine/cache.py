"""What is known of a key/value cache whose layers differ in length."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastadasp.engine.stream import Stream
from fastadasp.errors import ModelError


@dataclass(frozen=True)
class Keys:
    """The keys of one layer.

    Attributes:
        length: columns.
        lengths: keys of each sample without padding, on the host.
        valid: bool [B, length], False for padding; None where there is none.
        plain: whether they are the plain model's keys, so that its own mask fits them.
    """

    length: int
    lengths: tuple[int, ...]
    valid: Tensor | None
    plain: bool = True

    def then(self, stream: Stream, *, plain: bool) -> Keys:
        """These keys followed by those of a new chunk; `plain` says whether the chunk is as the plain model has it."""
        rows = len(stream.lengths)
        before = self.repeated(rows)
        both = None
        padded = before.valid if before.valid is not None else stream.valid
        if padded is not None:
            left = padded.new_ones(rows, self.length) if before.valid is None else before.valid
            right = padded.new_ones(rows, stream.width) if stream.valid is None else stream.valid
            both = torch.cat([left, right], 1)
        totals = tuple(a + b for a, b in zip(before.lengths, stream.lengths, strict=True))
        return Keys(self.length + stream.width, totals, both, self.plain and plain)

    def repeated(self, rows: int) -> Keys:
        """The same keys for a batch that was expanded row by row (beams) after the prompt."""
        if rows == len(self.lengths):
            return self
        if rows % len(self.lengths):
            raise ModelError(
                f"the cache holds {len(self.lengths)} sample(s) but the batch has {rows}; "
                "after a reduction a batch may only be repeated, not shrunk"
            )
        times = rows // len(self.lengths)
        lengths = tuple(n for n in self.lengths for _ in range(times))
        valid = None if self.valid is None else self.valid.repeat_interleave(times, dim=0)
        return Keys(self.length, lengths, valid, self.plain)


@dataclass
class CacheState:
    """The keys of every layer of one cache."""

    layers: list[Keys] = field(default_factory=list)


_states: weakref.WeakKeyDictionary[Any, CacheState] = weakref.WeakKeyDictionary()


def state_of(cache: Any) -> CacheState | None:
    """What is known of `cache`; None for one that no strategy has seen."""
    return None if cache is None else _states.get(cache)


def remember(cache: Any, state: CacheState) -> None:
    """Keeps `state` for as long as `cache` lives."""
    _states[cache] = state
