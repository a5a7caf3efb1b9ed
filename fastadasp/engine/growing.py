"""The tokens of an answer, whose caches evict again every so many of them."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastadasp.counts.growth import Held, held_after
from fastadasp.engine.cache import CacheState, GrowingLayer, Recent, state_of
from fastadasp.engine.cached import CachedSpans, CachedView, by_head_again
from fastadasp.engine.fingerprints import mix
from fastadasp.engine.growth import Growth, spread, with_valid
from fastadasp.engine.heads import evict
from fastadasp.engine.passes import FollowingPass
from fastadasp.engine.planning import note_scores, plan_of
from fastadasp.engine.rotation import rotation_of
from fastadasp.engine.spans import send
from fastadasp.engine.stream import Stream

if TYPE_CHECKING:
    from fastadasp.engine.session import Session
    from fastadasp.recipes.recipe import Recipe


class GrowingPass(FollowingPass):
    """Tokens that follow a prompt whose caches evict again."""

    looks = True

    def __init__(
        self,
        session: Session,
        cache: Any,
        known: CacheState,
        stream: Stream,
        seen: int,
        growth: Growth,
        positions: Tensor | None,
    ) -> None:
        super().__init__(session, cache, known, stream, seen)
        self.growth = growth = growth.repeated(len(stream.lengths))
        self.strategy: Recipe = session.evicting  # type: ignore[assignment]  # it is what has `every`
        self.grown = tuple(a + b for a, b in zip(growth.grown, stream.lengths, strict=True))
        self.due = growth.since + stream.width >= (self.strategy.every or sys.maxsize)
        self.held = list(growth.held)
        self._rotary: Any = None
        self._positions = positions
        if self.due:
            self._plan()

    def _plan(self) -> None:
        """How many keys each layer is to lose of each row."""
        growth = self.growth
        goal, met = held_after(
            self.strategy, self.session.shape, growth.seen, growth.samples, growth.totals, self.grown
        )
        if not met and not growth.short:
            warnings.warn(
                f"strategy {self.session.strategy.name!r}: the answer is so long that budget {self.strategy.budget} "
                "cannot be met any more by the keys that may go; they are as few as they can be "
                '(evicts = "any" lets text go, too)',
                stacklevel=2,
            )
            self.growth = replace(growth, short=True)
        self.remove: Held = []
        for index, counts in enumerate(growth.held):
            now = counts
            if self.strategy.evicts == "any":
                fresh = [n - before for n, before in zip(self.grown, growth.settled, strict=True)]
                now = tuple(n + fresh[row] for n, row in zip(counts, growth.samples, strict=True))
            gone = tuple(max(min(n - to, n - 1), 0) for n, to in zip(now, goal[index], strict=True))
            self.remove.append(gone if isinstance(self.cache.layers[index], GrowingLayer) else (0,) * len(gone))
            self.held[index] = tuple(n - k for n, k in zip(now, self.remove[-1], strict=True))

    def enter(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._rotary = kwargs.get("position_embeddings")
        return super().enter(index, args, kwargs)

    def see(self, index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
        layer = self.cache.layers[index]
        if not isinstance(layer, GrowingLayer):
            return
        layer.recent.append(Recent(query, self._rotary))
        if self.due:
            with torch.no_grad():
                self._evict(index, layer, key, value, scale)

    def finish(self) -> None:
        super().finish()
        known = state_of(self.cache)
        if known is None:
            return
        growth, width = self.growth, self.stream.width
        if self.due:
            settled = replace(growth, held=self.held, settled=self.grown, since=0, rounds=growth.rounds + 1)
            known.growth = replace(settled, grown=self.grown)
        else:
            known.growth = replace(growth, grown=self.grown, since=growth.since + width)
        self.session.trace.held[:] = [keys.lengths for keys in self.keys]

    def _evict(self, index: int, layer: GrowingLayer, key: Tensor, value: Tensor, scale: float) -> None:
        """One layer's keys go again, and its notes follow what is left."""
        strategy, keys, removals = self.strategy, self.keys[-1], self.remove[index]
        batch, heads, total = key.shape[:3]
        view, notes = self._view(index, layer, key, value, scale)
        source = None
        if any(removals):
            kept = plan_of(strategy, view).cluster >= 0
            gone = [0] * batch
            for row, count in zip(self.growth.samples, removals, strict=True):
                gone[row] += count
            query_heads = layer.recent[-1].query.shape[1] if strategy.merger.across_heads else None
            self.keys[-1], source = evict(layer, keys, view, kept, tuple(gone), query_heads)
        else:
            note_scores(strategy, view)
        left = {name: spread(view, scores, batch, heads, total) for name, scores in view.carries.items()}
        notes = {name: notes[name] for name in ("clip", "since")} | left
        if source is not None:
            notes = {name: note.gather(2, source) for name, note in notes.items()}
        layer.notes, layer.recent = with_valid(notes, self.keys[-1], heads), []

    def _view(
        self, index: int, layer: GrowingLayer, key: Tensor, value: Tensor, scale: float
    ) -> tuple[CachedView, dict[str, Tensor]]:
        """What scorers see, by heads; and the notes of all keys, [B, heads, columns]."""
        keys, growth, device = self.keys[-1], self.growth, key.device
        batch, heads, total = key.shape[:3]
        query = torch.cat([one.query for one in layer.recent], 2)
        length = query.shape[2]
        new = None if keys.valid is None else keys.valid[..., total - length :].to(device)
        new = new if new is None or new.dim() == 2 else new[:, 0]
        notes = self._notes(layer, batch, length, new)
        sample, number, remove = send([growth.samples, growth.numbers, self.remove[index]], device)
        ragged = keys.valid is not None and keys.valid.dim() == 3
        head = torch.arange(heads, device=device)
        rows, numbers = (sample.unsqueeze(1) * heads + head).flatten(), number.repeat_interleave(heads)
        clip = notes["clip"].flatten(0, 1)
        held = tuple(n + k for n, k in zip(self.held[index], self.remove[index], strict=True) for _ in range(heads))
        if ragged:  # only the device knows how many each head holds
            held = _held_by_head(clip[rows] == numbers.unsqueeze(1))
        of = tuple(row * heads + i for row in growth.samples for i in range(heads))
        spans = CachedSpans.of(clip, rows, numbers, held, of)
        first = notes["clip"][:, 0]  # where heads hold equally many, they hold them in the same columns
        whole_spans = CachedSpans.of(first, sample, number, held[::heads], growth.samples)
        given = [one.rotary for one in layer.recent]
        stream = Stream((length,) * batch, length, new, self.stream.spans)
        whole = CachedView(
            layer_index=index,
            num_layers=len(self.session.layers),
            seed=self.session.strategy.seed,
            spans=whole_spans,
            query=query,
            key=key,
            states=torch.empty(batch, length, 1, device="meta"),
            scale=scale,
            key_valid=None if keys.valid is None else keys.valid.to(device),
            clip_keys=mix(growth.clip_keys.to(device) ^ (growth.rounds + 1)),
            token_valid=new,
            remove=remove,
            removals=self.remove[index],
            value=value,
            rotation=rotation_of(self.session, index, _joined(given), self._positions, stream, query),
            since=_taken(notes["since"][:, 0], whole_spans),
        )
        since = _taken(notes["since"].flatten(0, 1), spans)
        before = {
            name: _taken(note.flatten(0, 1), spans) for name, note in notes.items() if name not in ("clip", "since")
        }
        return by_head_again(whole, spans, since, before), notes

    def _notes(self, layer: GrowingLayer, batch: int, length: int, new: Tensor | None) -> dict[str, Tensor]:
        """The notes of all keys, those that came since keys went last included; `new` bool [B, length] if padded."""
        old, growth = layer.notes, self.growth
        clip = old["clip"]
        real = clip.new_ones(batch, length) if new is None else new.long()
        fresh = real * 0
        if self.strategy.evicts == "any":
            fresh[send([growth.samples], clip.device)[0]] = 1
            fresh = fresh * real
        later = real.flip(1).cumsum(1).flip(1)
        out = {
            "clip": _longer(clip, fresh),
            "since": _longer(old["since"] + real.sum(1).view(-1, 1, 1), later),
        }
        return out | {
            name: torch.nn.functional.pad(note, (0, length))
            for name, note in old.items()
            if name not in ("clip", "since", "valid")
        }


def _taken(note: Tensor, spans: Any) -> Tensor:
    """A note of all keys [B, columns] at those that may go: [rows, N]."""
    taken: Tensor = note[spans.sample].gather(1, spans.columns()[0])
    return taken


def _longer(note: Tensor, fresh: Tensor) -> Tensor:
    """A note [B, heads, columns] with that of new keys [B, new], which is the same for every head."""
    return torch.cat([note, fresh.unsqueeze(1).expand(-1, note.shape[1], -1)], 2)


def _joined(given: list[Any]) -> Any:
    """Position embeddings of several passes one after another."""
    if not isinstance(given[0], tuple | list):
        return given[0]
    return tuple(torch.cat(parts, -2) for parts in zip(*given, strict=True))


def _held_by_head(there: Tensor) -> tuple[int, ...]:
    """How many keys each head holds; `there` [clips and heads, keys]. Waits for the device."""
    return tuple(there.sum(1).tolist())
