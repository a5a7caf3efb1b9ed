"""A prompt with audio on its way through the decoder: what each layer removes, and how."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastadasp.counts.solve import BatchLengths, batch_removals, batch_removals_after
from fastadasp.engine import static
from fastadasp.engine.cache import CacheState, state_of
from fastadasp.engine.encoding import seen_for
from fastadasp.engine.evicting import check_whole, evictable, planned
from fastadasp.engine.fingerprints import fingerprint_clips
from fastadasp.engine.growth import begin_growing, spread
from fastadasp.engine.heads import by_head, evict
from fastadasp.engine.passes import FollowingPass, Left
from fastadasp.engine.planning import check_text, note_scores, plan_of
from fastadasp.engine.received import attend, can_attend
from fastadasp.engine.replay import LayerWork, with_states
from fastadasp.engine.rotation import rotation_of
from fastadasp.engine.seen import Seen
from fastadasp.engine.spans import AudioSpans, send
from fastadasp.engine.stream import Reduction, Stream, apply_plan
from fastadasp.engine.survivors import Survivors
from fastadasp.engine.trace import LayerTrace, follow
from fastadasp.engine.view import LayerView
from fastadasp.errors import ModelError, StrategyError

if TYPE_CHECKING:
    from fastadasp.engine.session import Session
    from fastadasp.recipes.recipe import Recipe


class ReducingPass(FollowingPass):
    """A prompt whose audio tokens are reduced, or whose keys and values are evicted."""

    looks = True

    def __init__(self, session: Session, cache: Any, known: CacheState, stream: Stream, seen: int) -> None:
        super().__init__(session, cache, known, stream, seen)
        self.removals: list[tuple[int, ...]] = []
        """By layer, how many tokens it is to take from each clip."""
        self.evictions: list[tuple[int, ...]] = []
        """By layer, how many keys of each clip, or prompt where any may go, its cache is to lose."""
        self.acts = False
        """Whether any layer is to do anything."""
        self.work: list[LayerWork] = []
        self.survivors: Survivors | None = None
        self._remove = self._evict = self._clip_keys = self._prompt_keys = torch.zeros(0, dtype=torch.int64)
        self._may_go = stream.spans  # before layer 0
        self._seen: Seen | None = None
        self._received: Tensor | None = None
        self._rotary: Any = None  # what the current layer rotates its queries by
        self._positions: Tensor | None = None
        self._kept: dict[str, tuple[tuple[int | None, ...], Tensor]] = {}
        self._done: set[tuple[int, str]] = set()
        self._chosen: dict[int, Any] = {}  # what caches that evict again keep in mind
        self._traced: list[LayerTrace] = []
        self._assignments: dict[int, Tensor] = {}

    def plan(self, positions: Tensor | None) -> None:
        """Settles how much each layer takes from each clip. `positions` are the decoder's own position ids."""
        session, spans, counted = self.session, self.stream.spans, self.stream.spans
        if session.evicting is not None and session.evicting.evicts == "any":
            self._may_go = evictable(session.evicting, self.stream)
            check_whole(self._may_go, self.stream)
            counted = self._may_go if session.strategy.site == "cache" else spans
        lengths = BatchLengths(counted.tokens, counted.samples, self.stream.lengths)
        self._set(batch_removals(session.strategy, len(session.layers), session.shape, lengths))
        check_text(session.strategy, spans, self.removals, self.evictions)
        if self.acts:
            if positions is None:
                device = self.stream.spans.start.device
                positions = torch.arange(self.seen - self.stream.width, self.seen, device=device).unsqueeze(0)
            self._positions = positions
            self.survivors = Survivors(
                self.stream, positions, session.rotary(), even=session.strategy.positions == "even"
            )

    def _set(self, plans: list[tuple[int, ...]]) -> None:
        """What each layer takes from each clip, and what each cache layer then evicts."""
        session, clips = self.session, self.plain_stream.spans
        self.removals, self.evictions = plans, []
        if session.evicting is not None:
            site, rows = session.strategy.site, len(self.plain_stream.lengths)
            self.evictions = planned(session.evicting, self._may_go, clips, plans, site=site, batch=rows)
            if site == "cache":
                self.removals = [(0,) * len(clips.tokens)] * len(plans)
        session.trace.removals = list(self.removals)
        self.acts = self._grows() or any(any(counts) for counts in (*self.removals, *self.evictions))
        if self.acts:
            device = clips.start.device
            self._remove, self._evict = send(self.removals, device), send(self.evictions, device)

    def _replan(self, layer: int, removed: tuple[int, ...]) -> None:
        """After a merger that took other counts from the clips at `layer` than it was asked to."""
        session, stream = self.session, self.plain_stream
        lengths = BatchLengths(stream.spans.tokens, stream.spans.samples, stream.lengths)
        taken = [*self.removals[:layer], removed]
        rest = batch_removals_after(session.strategy, len(session.layers), session.shape, lengths, taken)
        self._set([*taken, *rest])

    def _reduces(self, layer: int, site: str) -> bool:
        """Whether hidden states are reduced in this layer, at this site."""
        return self.session.strategy.site == site and layer < len(self.removals) and any(self.removals[layer])

    def _grows(self, layer: int | None = None) -> bool:
        """Whether caches, or this layer's, evict again while the answer grows."""
        evicting = self.session.evicting
        if evicting is None or evicting.every is None or not self.plain_stream.spans.tokens:
            return False
        return layer is None or layer >= evicting.layers.start_layer(len(self.session.layers))

    def _evicts(self, layer: int) -> bool:
        """Whether keys and values of this layer are evicted."""
        return bool(self.evictions) and any(self.evictions[layer])

    def enter(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        if index == 0 and self.acts:
            with torch.no_grad():
                self._clip_keys = self._prompt_keys = fingerprint_clips(states, self.stream.spans)
                if self._may_go is not self.stream.spans:
                    self._prompt_keys = fingerprint_clips(states, self._may_go)
        entry = None
        if self._reduces(index, "input"):
            with torch.no_grad():
                entry = self._reduce(index, states, self._take_seen())
            self._follow(index, "input", entry)
            states = entry.reduce(states)
            args, kwargs = with_states(args, kwargs, states)
        work = LayerWork(self.stream, entry)
        self.work.append(work)
        if self.survivors is not None:
            with torch.no_grad():
                work.changed = self.survivors.arguments(kwargs, states, index)
            kwargs = kwargs | work.changed
        self._rotary = kwargs.get("position_embeddings")
        masked = super().enter(index, args, kwargs)
        if masked is not None:
            args, kwargs = masked
            work.changed = (work.changed or {}) | {"attention_mask": kwargs["attention_mask"]}
        return args, kwargs

    def attend(self, index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor | None:
        """Takes scores along with the attention where the strategy will ask for those of all queries."""
        if not (self.session.takes_received and can_attend(query, key)) or self.keys[-1].valid is not None:
            return None
        site = self.session.strategy.site
        acting = index if site == "block" else index + 1
        if not self._reduces(acting, site) or self.removals[acting] == self.stream.spans.tokens:
            return None  # nobody has to choose
        output, self._received = attend(query, key, value, scale)
        return output

    def see(self, index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
        received, self._received = self._received, None
        looks = self._evicts(index) or self._grows(index)
        if looks or self._reduces(index, "block") or self._reduces(index + 1, "input"):
            rotation = rotation_of(self.session, index, self._rotary, self._positions, self.stream, query)
            self._seen = Seen(query, key, value, scale, self.keys[-1].valid, rotation, received)

    def before_norm(self, index: int, states: Tensor) -> Tensor | None:
        """Evicts keys and values (site ``cache``), reduces the MLP's input (site ``block``)."""
        reduces, evicts = self._reduces(index, "block"), self._evicts(index) or self._grows(index)
        if not (reduces or evicts):
            return None
        seen = self._take_seen()
        if self._reduces(index + 1, "input"):
            self._seen = seen  # which the next layer goes by, and lets go
        if seen is None:
            raise ModelError(
                f"layer {index} computed attention without transformers' attention interface, "
                "so its queries and keys cannot be seen; this model cannot be reduced"
            )
        if evicts:
            with torch.no_grad():
                self._evict_keys(index, states, seen)
        if not reduces:
            return None
        with torch.no_grad():
            self.work[index].inside = self._reduce(index, states, seen)
        return self.shorten(index, states)

    def shorten(self, index: int, states: Tensor) -> Tensor | None:
        inside = self.work[index].inside
        return None if inside is None else inside.reduce(states)

    def expand(self, index: int, states: Tensor) -> Tensor:
        inside = self.work[index].inside
        return states if inside is None else inside.expand(states)

    def leave(self, index: int, states: Tensor) -> Tensor:
        """The reduced sum goes on, with positions of its own."""
        work = self.work[index]
        if work.inside is not None:
            states = work.inside.reduce(states)
            self._follow(index, "block", work.inside)
        left = self.stream
        audio = left.spans.per_sample(len(left.lengths))
        keys = self.keys[-1]
        self._traced.append(LayerTrace(index, audio, work.entered.lengths, left.lengths, keys.lengths, keys.columns))
        return super().leave(index, states)

    def finish(self) -> None:
        self.check_complete()
        self.session.trace.publish(self._traced, self._assignments)
        past = [keys.length for keys in self.known.layers]
        super().finish()
        if not self._grows() or not self.holds_keys():
            return
        entered = [one.entered for one in self.work]
        growth = begin_growing(self.session, self.cache, self.keys, entered, past, self._chosen, self.seen)
        state_of(self.cache).growth = replace(growth, clip_keys=self._prompt_keys)  # type: ignore[union-attr]

    def end(self) -> None:
        self.check_complete()

    def missing(self) -> list[tuple[int, str]]:
        """Layers and sites that were to act and did not."""
        layers = range(len(self.removals))
        due = {(i, site) for i in layers for site in ("input", "block") if self._reduces(i, site)}
        due |= {(i, "cache") for i in layers if self._evicts(i)}
        return sorted(due - self._done)

    def check_complete(self) -> None:
        """Raises ModelError if a reduction that was planned has not happened."""
        missing = self.missing()
        if missing:
            layers = ", ".join(str(i) for i in sorted({i for i, _ in missing}))
            raise ModelError(
                f"strategy {self.session.strategy.name!r} was to remove audio tokens in layer(s) {layers} of "
                f"{type(self.session.decoder).__name__}, but they were not removed there: the model did not call "
                "these layers, or not with the parts that its family names"
            )

    def left(self) -> Left | None:
        columns = None if self.survivors is None else self.survivors.columns
        return None if columns is None else Left(columns, self.stream.valid, self.plain_stream.width)

    def _take_seen(self) -> Seen | None:
        """The attention seen last; it is let go here."""
        seen, self._seen = self._seen, None
        return seen

    def _follow(self, index: int, site: str, reduction: Reduction) -> None:
        """A reduction was made."""
        self._done.add((index, site))
        if self.survivors is not None:
            self.survivors.follow(reduction, self.stream)

    def _view(
        self,
        index: int,
        states: Tensor,
        seen: Seen | None,
        remove: Tensor,
        removals: list[tuple[int, ...]],
        may_go: AudioSpans | None = None,
    ) -> LayerView:
        device = states.device  # of a model on several, this layer's
        self.stream = self.stream.to(device)
        spans = self.stream.spans if may_go is None else may_go.to(device)
        keys = self._clip_keys if may_go is None else self._prompt_keys
        return LayerView(
            layer_index=index,
            num_layers=len(self.session.layers),
            seed=self.session.strategy.seed,
            spans=spans,
            query=None if seen is None else seen.query.to(device),
            key=None if seen is None else seen.key.to(device),
            states=states,
            scale=1.0 if seen is None else seen.scale,
            key_valid=None if seen is None or seen.valid is None else seen.valid.to(device),
            clip_keys=keys.to(device),
            token_valid=self.stream.valid,
            remove=remove[index].to(device),
            removals=removals[index],
            kept=self._kept if may_go is None else {},
            value=None if seen is None else seen.value.to(device),
            rotation=None if seen is None or seen.rotation is None else seen.rotation.to(device),
            received=None if seen is None or seen.received is None else seen.received.to(device),
            encoder=seen_for(self.session, self.stream.spans.tokens, device, plain=self.left() is None),
        )

    def _reduce(self, index: int, states: Tensor, seen: Seen | None) -> Reduction:
        """Makes a layer's reduction; from here on the stream is the shorter one."""
        strategy, stream = self.session.strategy, self.stream
        layer = self._view(index, states, seen, self._remove, self.removals)
        stream, plan = self.stream, plan_of(strategy, layer)
        if strategy.merger.is_exact():
            removed = self.removals[index]
            survivors = tuple(n - k for n, k in zip(stream.spans.tokens, removed, strict=True))
        else:  # only the device knows how many went
            clusters = plan.cluster.masked_fill(~layer.valid, -1).amax(1) + 1
            survivors = tuple(int(n) for n in clusters.cpu())
            removed = tuple(n - left for n, left in zip(stream.spans.tokens, survivors, strict=True))
            self._replan(index, removed)
        reduction, left = apply_plan(stream, plan, survivors)
        for name, (at, scores) in self._kept.items():
            self._kept[name] = at, reduction.add_up(scores, stream.spans, left.spans)
        if self.session.trace.keep_assignment:
            follow(self._assignments, index, reduction.target, reduction.width)
        self.stream = left
        return reduction

    def _evict_keys(self, index: int, states: Tensor, seen: Seen) -> None:
        """Each key/value head keeps its own choice of keys in the cache."""
        strategy: Recipe = self.session.evicting  # type: ignore[assignment]  # it is what planned the eviction
        if not self.holds_keys(index):
            raise StrategyError(
                f"strategy {self.session.strategy.name!r} is to evict keys and values in layer {index}, but the model "
                "runs without a key/value cache (use_cache=False, or gradient checkpointing): run it with "
                "use_cache=True, or take a strategy that shortens the sequence"
            )
        may_go = evictable(strategy, self.stream)
        layer = by_head(self._view(index, states, seen, self._evict, self.evictions, may_go))
        layer.again = strategy.every is not None
        batch, heads, total, source, rows = *seen.key.shape[:3], None, None
        if self._evicts(index):
            kept = plan_of(strategy, layer).cluster >= 0
            rows = self.evictions[index]
            gone = may_go.per_sample(batch, rows)
            query_heads = seen.query.shape[1] if strategy.merger.across_heads else None
            self.keys[-1], source = evict(self.cache.layers[index], self.keys[-1], layer, kept, gone, query_heads)
            self._done.add((index, "cache"))
        if strategy.every is None:
            return
        if rows is None:
            note_scores(strategy, layer)
        left = {name: spread(layer, scores, batch, heads, total) for name, scores in layer.carries.items()}
        if source is not None:
            left = {name: note.gather(2, source) for name, note in left.items()}
        self._chosen[index] = source, left, rows


class StaticPass(ReducingPass):
    """The same over a new static cache, whose layers get room for their own keys alone once the prompt is through."""

    def holds_keys(self, layer: int = 0) -> bool:
        return True

    def finish(self) -> None:
        self.check_complete()
        self.session.trace.publish(self._traced, self._assignments)
        static.settle(self.cache, self.keys, self.seen, self.session.allotted)
