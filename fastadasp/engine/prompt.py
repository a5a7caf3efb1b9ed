"""One forward pass through the decoder: what each layer is to remove, and what is known as it goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastadasp.counts.schedule import evictions
from fastadasp.counts.solve import BatchLengths, batch_removals, batch_removals_after
from fastadasp.engine import static
from fastadasp.engine.cache import CacheState, Keys, count_seen, remember, state_of
from fastadasp.engine.masks import causal_mask
from fastadasp.engine.spans import AudioSpans, find_spans, send
from fastadasp.engine.stream import Reduction, Stream
from fastadasp.engine.survivors import Survivors
from fastadasp.engine.trace import LayerTrace
from fastadasp.errors import ModelError, StrategyError

if TYPE_CHECKING:
    from fastadasp.engine.session import _Session


@dataclass(frozen=True)
class Seen:
    """Queries and keys of the attention that was computed last; `valid` is False for padding keys."""

    query: Tensor
    key: Tensor
    scale: float
    valid: Tensor | None


class Prompt:
    """State of one forward pass. A pass without audio (a decoding step) acts on nothing and only keeps masks right."""

    def __init__(
        self,
        session: _Session,
        *,
        cache: Any,
        past: int,
        batch: int,
        length: int,
        mask: Any,
        span_ids: Tensor | None,
        positions: Tensor | None,
    ) -> None:
        self.session, self.cache = session, cache
        self.known = state_of(cache)
        self.joined: dict[tuple[int, int], _Joined] = {}
        self.keys: list[Keys] = []
        self.survivors: Survivors | None = None
        self.plans: list[tuple[int, ...]] = []
        self.evictions: list[tuple[int, ...]] = []
        self.seen: Seen | None = None
        self.kept: dict[str, tuple[int, Tensor]] = {}
        self.tokens = past + length
        self.acts = self.quiet = self.static = False
        self.remove = self.evict = self.clip_keys = torch.zeros(0, dtype=torch.int64)
        self.stream = self.plain_stream = Stream((length,) * batch, length, None, _no_spans())
        if self.known is None and session.exceeds_window(self.tokens) and span_ids is not None and not span_ids.any():
            span_ids = None  # a long text is the plain model's affair
        if span_ids is None and self.known is None:
            session.check_cache(cache, past, None)
            return  # nothing to reduce and nothing was: the model is on its own
        session.check_supported(mask, cache, self.tokens)
        session.check_cache(cache, past, self.known)
        if self.known is not None:
            # A decoding step where nothing is padded: the model's own mask, which is none, fits every layer.
            self.quiet = span_ids is None and length == 1 and not self.known.padded
            self.known = self.known if self.quiet else self.known.settled()
        self._look_at_padding(mask, span_ids, past, batch, length)
        if span_ids is not None:
            self._plan()
        self.static = static.is_fresh(cache)
        if self.static and not self.acts:
            self.known = None  # the model is on its own
        elif self.static:
            static.shorten(cache)
        if self.acts:
            if positions is None:
                positions = torch.arange(past, self.tokens, device=self.stream.spans.start.device).unsqueeze(0)
            even = session.strategy.positions == "even"
            self.survivors = Survivors(self.stream, positions, session.rotary(), even=even)

    def _look_at_padding(self, mask: Any, span_ids: Tensor | None, past: int, batch: int, length: int) -> None:
        """Finds the audio spans and the padding: a pass's only wait for the device, and none in a decoding step."""
        if mask is not None and mask.shape[1] != past + length:
            raise ModelError(
                f"the attention mask covers {mask.shape[1]} positions, "
                f"but the cache holds {past} and the prompt adds {length}"
            )
        valid = None if mask is None or length == 1 else mask[:, past:].bool()
        lengths, spans = (length,) * batch, _no_spans()
        device = None if span_ids is None else span_ids.device
        both = [x for x in (valid, span_ids) if x is not None]
        host = torch.stack([x.to(torch.int64) for x in both]).cpu() if both else None
        if valid is not None and host is not None:
            lengths = tuple(int(n) for n in host[0].sum(1))
            if min(lengths) == length:
                valid = None
        if span_ids is not None and host is not None:
            spans = find_spans(host[-1], None if valid is None else host[0].bool(), device)
        self.stream = self.plain_stream = Stream(lengths, length, valid, spans)
        if self.known is None:
            before = mask[:, :past].bool() if mask is not None and past else None
            counts = (past,) * batch if before is None else tuple(int(n) for n in before.sum(1).cpu())
            padded = before if min(counts) != past else None
            keys = Keys(past, counts, padded, plain=not static.is_fresh(self.cache))
            self.known = CacheState([keys] * len(self.session.layers))

    def _plan(self) -> None:
        session, spans = self.session, self.stream.spans
        if "text" in session.strategy.needs() and 0 in spans.text:
            raise StrategyError(
                f"strategy {session.strategy.name!r} compares audio with text, but sample "
                f"{spans.samples[spans.text.index(0)]} has no text tokens beside its audio"
            )
        lengths = BatchLengths(spans.tokens, spans.samples, self.stream.lengths)
        self._set(batch_removals(session.strategy, len(session.layers), session.shape, lengths))
        session.trace.begin()

    def _set(self, plans: list[tuple[int, ...]]) -> None:
        """What each layer takes from each clip, and what each cache layer then evicts."""
        session, clips = self.session, self.plain_stream.spans
        self.plans, self.evictions = plans, []
        if session.evicting is not None:
            if session.strategy.site == "cache":
                self.plans = [(0,) * len(clips.tokens)] * len(plans)
                self.evictions = list(accumulate(plans, lambda gone, more: tuple(map(add, gone, more))))
            else:
                self.evictions = evictions(session.evicting, clips.tokens, plans, site=session.strategy.site)
        self.acts = any(any(counts) for counts in (*self.plans, *self.evictions))
        if self.acts:
            device = clips.start.device
            self.remove, self.evict = send(self.plans, device), send(self.evictions, device)

    def replan(self, layer: int, removed: tuple[int, ...]) -> None:
        """After a merger that took other counts from the clips at `layer` than it was asked to."""
        session, stream = self.session, self.plain_stream
        lengths = BatchLengths(stream.spans.tokens, stream.spans.samples, stream.lengths)
        taken = [*self.plans[:layer], removed]
        rest = batch_removals_after(session.strategy, len(session.layers), session.shape, lengths, taken)
        self._set([*taken, *rest])

    def acts_at(self, layer: int, site: str) -> bool:
        """Whether hidden states are reduced in this layer, at this site."""
        return self.acts and self.session.strategy.site == site and any(self.plans[layer])

    def evicts_at(self, layer: int) -> bool:
        """Whether keys and values of this layer are evicted."""
        return bool(self.evictions) and any(self.evictions[layer])

    def looks_at(self, layer: int) -> bool:
        """Whether this layer's attention is looked at: by the layer itself, or at the input of the next."""
        following = layer + 1 < len(self.plans) and self.acts_at(layer + 1, "input")
        return self.acts and (following or self.acts_at(layer, "block") or self.evicts_at(layer))

    def follow(self, reduction: Reduction) -> None:
        """A reduction was made, and `stream` is what it left."""
        if self.survivors is not None:
            self.survivors.follow(reduction, self.stream)

    def stays_quiet(self, mask: Any) -> bool:
        """Whether nothing need be done in a decoding step, now that the model's own mask is seen: it has none."""
        if self.known is not None and mask is not None:
            self.quiet, self.known = False, self.known.settled()
        return self.quiet

    def take_seen(self) -> Seen | None:
        """The attention looked at last; it is let go here."""
        seen, self.seen = self.seen, None
        return seen

    def join(self, index: int) -> _Joined:
        """A layer's keys once this pass has been through it."""
        known: CacheState = self.known  # type: ignore[assignment]
        old, stream = known.layers[index], self.stream
        name = (id(old), id(stream))
        if name not in self.joined:
            keys = old.then(stream, plain=stream is self.plain_stream)
            self.joined[name] = _Joined(old, stream, keys)
        return self.joined[name]

    def mask_for(self, joined: _Joined, states: Tensor) -> Any:
        """The mask over `joined`'s keys, made once for all layers that share them."""
        if joined.mask is _UNSET:
            config, keys = self.session.decoder.config, joined.keys
            joined.mask = causal_mask(self.session.implementation, config, states, keys.length, keys.valid)
        return joined.mask.to(states.device) if isinstance(joined.mask, Tensor) else joined.mask

    def record(self, index: int, entered: Stream, keys: Keys) -> None:
        """Adds a layer to the trace."""
        left = self.stream
        batch = len(left.lengths)
        self.session.trace.layers.append(
            LayerTrace(index, left.spans.per_sample(batch), entered.lengths, left.lengths, keys.lengths)
        )

    def finish(self) -> None:
        """After the last layer: keeps what the cache now holds."""
        if self.quiet and self.known is not None:
            self.known.steps += 1
        elif self.cache is None or len(self.keys) < len(self.session.layers):
            return
        elif self.static:
            static.settle(self.cache, self.keys, self.tokens, self.session.allotted)
        else:
            count_seen(self.cache, self.keys[0], self.tokens)
            remember(self.cache, CacheState(self.keys))


@dataclass
class _Joined:
    """A layer's old keys followed by this pass's; holds on to both so that their identities stay theirs."""

    old: Keys
    stream: Stream
    keys: Keys
    mask: Any = field(default_factory=lambda: _UNSET)


def _no_spans() -> AudioSpans:
    nothing = torch.zeros(0, dtype=torch.int64)
    return AudioSpans(nothing, nothing, nothing, (), ())


_UNSET: Any = object()
