"""What is known of a key/value cache whose layers differ in length."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastadasp.engine.stream import Stream
from fastadasp.errors import ModelError
from fastadasp.upstream.inside import DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from fastadasp.engine.growth import Growth


@dataclass(frozen=True)
class Keys:
    """The keys of one layer.

    Attributes:
        length: columns.
        lengths: keys of each sample without padding, on the host; the mean over its heads where these differ.
        valid: bool [B, length], False for padding; None where there is none. Where heads keep different numbers of
            keys, bool [B, query heads, length].
        columns: keys of each sample's longest head.
        plain: whether they are the plain model's keys, so that its own mask fits them.
    """

    length: int
    lengths: tuple[int, ...]
    valid: Tensor | None
    plain: bool = True
    columns: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.columns:
            object.__setattr__(self, "columns", self.lengths)

    def then(self, stream: Stream, *, plain: bool) -> Keys:
        """These keys followed by those of a new chunk; `plain` says whether the chunk is as the plain model has it."""
        rows = len(stream.lengths)
        before = self.repeated(rows)
        both = None
        padded = before.valid if before.valid is not None else stream.valid
        if padded is not None:
            left = padded.new_ones(rows, self.length) if before.valid is None else before.valid.to(padded.device)
            right = padded.new_ones(rows, stream.width) if stream.valid is None else stream.valid.to(padded.device)
            if left.dim() == 3:  # each head has padding of its own
                right = right.unsqueeze(1).expand(-1, left.shape[1], -1)
            both = torch.cat([left, right], -1)
        totals = tuple(a + b for a, b in zip(before.lengths, stream.lengths, strict=True))
        columns = tuple(a + b for a, b in zip(before.columns, stream.lengths, strict=True))
        return Keys(self.length + stream.width, totals, both, self.plain and plain, columns)

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
        lengths, columns = (tuple(n for n in counts for _ in range(times)) for counts in (self.lengths, self.columns))
        valid = None if self.valid is None else self.valid.repeat_interleave(times, dim=0)
        return Keys(self.length, lengths, valid, self.plain, columns)


@dataclass
class CacheState:
    """The keys of every layer of one cache: `layers`, and `steps` more in each, of decoding steps without padding.

    `shown` counts, for each sample, the tokens that the caller's masks showed before these steps, on the host, as the
    plain model has them; empty where that is not known. `growth` says when the layers evict again, if they do.
    """

    layers: list[Keys] = field(default_factory=list)
    steps: int = 0
    shown: tuple[int, ...] = ()
    growth: Growth | None = None

    @cached_property
    def padded(self) -> bool:
        """Whether any layer holds padding."""
        return any(keys.valid is not None for keys in self.layers)

    def settled(self) -> CacheState:
        """The same with the steps among the keys."""
        if not self.steps:
            return self
        return CacheState(
            [
                replace(
                    keys,
                    length=keys.length + self.steps,
                    lengths=tuple(n + self.steps for n in keys.lengths),
                    columns=tuple(n + self.steps for n in keys.columns),
                )
                for keys in self.layers
            ],
            shown=tuple(n + self.steps for n in self.shown),
            growth=self.growth,
        )

    def shown_to(self, rows: int) -> tuple[int, ...]:
        """`shown` of a batch that may have been expanded row by row (beams) since."""
        times = rows // len(self.shown) if self.shown else 0
        return tuple(n for n in self.shown for _ in range(times))


_states: weakref.WeakKeyDictionary[Any, CacheState] = weakref.WeakKeyDictionary()


def state_of(cache: Any) -> CacheState | None:
    """What is known of `cache`; None for one that no strategy has seen, or that was emptied since."""
    known = None if cache is None else _states.get(cache)
    if known is not None and all(map(_emptied, cache.layers)):
        del _states[cache]
        return None
    return known


def _emptied(layer: Any) -> bool:
    """Whether a layer that keeps its keys as they are (a quantised one keeps some of them elsewhere) holds none."""
    plain = type(layer) in (DynamicLayer, DynamicSlidingWindowLayer, FirstLayer, GrowingLayer)
    return plain and (layer.keys is None or layer.keys.numel() == 0)


def remember(cache: Any, state: CacheState) -> None:
    """Keeps `state` for as long as `cache` lives."""
    _states[cache] = state


class FirstLayer(DynamicLayer):
    """The first layer of a cache, when it holds fewer keys than tokens went by.

    `generate` and the models ask the first layer how far a prompt has come, so this one counts what it has seen.
    """

    seen: int = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.seen += key_states.shape[-2]
        return super().update(key_states, value_states, *args, **kwargs)

    def get_seq_length(self) -> int:
        return self.seen

    def reset(self) -> None:
        super().reset()
        self.seen = 0


@dataclass(frozen=True)
class Recent:
    """What a pass showed of a layer since keys went last.

    Attributes:
        query: [B, heads, T, head_dim].
        rotary: the layer's position embeddings.
    """

    query: Tensor
    rotary: Any


class GrowingLayer(FirstLayer):
    """A layer of a cache that evicts again while the answer grows.

    What it knows of its keys goes along where beams are reordered, repeated or chosen.

    Attributes:
        notes: of the keys that it held when some went last, by name, each [B, heads, columns]: `clip`, which clip of
            its sample a key may go from (0: it stays); `since`, how many tokens of its sample stand at or after it;
            `valid`, where heads hold different numbers; and what scorers left.
        recent: what was seen since.
        moved: whether rows were reordered since the last pass.
    """

    notes: dict[str, Tensor]
    recent: list[Recent]
    moved: bool = False

    @classmethod
    def of(cls, layer: Any, notes: dict[str, Tensor], seen: int) -> GrowingLayer:
        """The same keys with notes, in a layer of this kind. Raises ModelError for layers that cannot become one."""
        if type(layer) not in (DynamicLayer, FirstLayer, GrowingLayer):
            raise ModelError(
                f"a {type(layer).__name__} cannot evict again while the answer grows (every); use the default dynamic "
                "cache"
            )
        made = cls()  # type: ignore[no-untyped-call]
        made.__dict__.update(layer.__dict__)
        made.notes, made.recent, made.moved, made.seen = notes, [], False, seen
        return made

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]  # any whole numbers will do
        self._rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._rows(lambda x: x[indices])

    def reset(self) -> None:
        super().reset()
        self.notes, self.recent = {}, []

    def _rows(self, change: Callable[[Tensor], Tensor]) -> None:
        self.notes = {name: change(note) for name, note in self.notes.items()}
        self.recent = [replace(one, query=change(one.query)) for one in self.recent]
        self.moved = True


def stored(cache: Any, layer: int) -> int:
    """Columns that one layer of `cache` holds; 0 before it was filled."""
    held = cache.layers[layer] if layer < len(getattr(cache, "layers", ())) else None
    # both count the tokens that went by, not the keys they hold
    if isinstance(held, FirstLayer | DynamicSlidingWindowLayer) and held.keys is not None:
        return int(held.keys.shape[-2])
    return int(cache.get_seq_length(layer))


def unreduced(cache: Any, layer: int, seen: int) -> int:
    """Columns that a layer holds in the plain model after `seen` tokens."""
    held = cache.layers[layer] if layer < len(getattr(cache, "layers", ())) else None
    return min(seen, held.sliding_window - 1) if isinstance(held, DynamicSlidingWindowLayer) else seen


def count_seen(cache: Any, keys: Keys, seen: int) -> None:
    """Lets the first layer of `cache` say that `seen` tokens went by, where it holds another number of `keys`."""
    first = cache.layers[0] if getattr(cache, "layers", None) else None
    if first is None or (keys.length == seen and not isinstance(first, FirstLayer)):
        return
    if type(first) is DynamicSlidingWindowLayer:
        first.cumulative_length = seen
        return
    if type(first) is DynamicLayer:
        counting = FirstLayer()  # type: ignore[no-untyped-call]
        counting.__dict__.update(first.__dict__)
        cache.layers[0] = first = counting
    if not isinstance(first, FirstLayer):
        raise ModelError(
            f"tokens cannot be removed before or in the first layer's {type(first).__name__}; "
            "use the default dynamic cache"
        )
    first.seen = seen
