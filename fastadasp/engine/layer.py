"""One decoder layer at work: the hooks around it, and what they do at each site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastadasp.engine import static
from fastadasp.engine.heads import by_head, evict
from fastadasp.engine.planning import plan_of
from fastadasp.engine.prompt import Prompt, Seen
from fastadasp.engine.stream import Reduction, Stream, apply_plan
from fastadasp.engine.view import LayerView, fingerprint_clips
from fastadasp.errors import ModelError
from fastadasp.upstream.names import cache_in

if TYPE_CHECKING:
    from fastadasp.engine.session import _Session


class LayerWork:
    """The hooks of one decoder layer."""

    def __init__(self, session: _Session, index: int) -> None:
        self.session, self.index = session, index
        self._reduction: Reduction | None = None
        self._entered: Stream | None = None

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the layer: reduces its input (site ``input``); gives it the survivors' positions and mask."""
        short = static.settled(cache_in(kwargs), self.index)
        if short is not None:
            return args, kwargs | {"attention_mask": short.mask(kwargs["attention_mask"])}
        if torch.compiler.is_compiling():
            return None
        self._reduction = None
        self.session.awaits_audio = False
        prompt = self.session.prompt
        if prompt is None or (prompt.quiet and prompt.stays_quiet(kwargs.get("attention_mask"))):
            return None
        if prompt.cache is None:
            prompt.cache = cache_in(kwargs)
        if prompt.known is None:
            return None
        states = args[0] if args else kwargs["hidden_states"]
        if self.index == 0 and prompt.acts:
            with torch.no_grad():
                prompt.clip_keys = fingerprint_clips(states, prompt.stream.spans)
        if prompt.acts_at(self.index, "input"):
            with torch.no_grad():
                reduction, prompt.stream = self._reduce(prompt, states, prompt.take_seen())
            prompt.follow(reduction)
            states = reduction.reduce(states)
            args, kwargs = (states, *args[1:]) if args else args, kwargs if args else kwargs | {"hidden_states": states}
        self._entered = prompt.stream
        if prompt.survivors is not None:
            with torch.no_grad():
                kwargs = kwargs | prompt.survivors.arguments(kwargs, states, self.index)
        joined = prompt.join(self.index)
        prompt.keys.append(joined.keys)
        if joined.keys.plain:
            return None
        return args, kwargs | {"attention_mask": prompt.mask_for(joined, states)}

    def see_attention(self, module: nn.Module, query: Tensor, key: Tensor, scale: float) -> None:
        prompt = self.session.prompt
        if prompt is not None and prompt.acts and prompt.looks_at(self.index):
            prompt.seen = Seen(query, key, scale, prompt.keys[-1].valid)

    def before_norm(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """Between attention and MLP: evicts keys and values (site ``cache``), reduces the MLP's input (``block``)."""
        prompt = self.session.prompt
        if prompt is None or not (prompt.acts_at(self.index, "block") or prompt.evicts_at(self.index)):
            return None
        seen = prompt.take_seen()
        if seen is None:
            raise ModelError(
                f"layer {self.index} computed attention without transformers' attention interface, "
                "so its queries and keys cannot be seen; this model cannot be reduced"
            )
        states = args[0]
        if prompt.evicts_at(self.index):
            with torch.no_grad():
                self._evict(prompt, states, seen)
        if prompt.acts_at(self.index, "block"):
            with torch.no_grad():
                self._reduction, prompt.stream = self._reduce(prompt, states, seen)
            states = self._reduction.reduce(states)
        return (states, *args[1:])

    def shorten(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """Before a later part of the layer that works on each token alone."""
        return None if self._reduction is None else (self._reduction.reduce(args[0]), *args[1:])

    def expand(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """After such a part, the MLP first of all."""
        if self._reduction is None:
            return output
        states = self._reduction.expand(output[0] if isinstance(output, tuple) else output)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """After the layer: the reduced sum goes on, with positions of its own."""
        prompt, reduction = self.session.prompt, self._reduction
        if prompt is None or prompt.quiet:
            if prompt is not None and self.index == len(self.session.layers) - 1:
                prompt.finish()
            return output
        if reduction is not None:
            states = reduction.reduce(output[0] if isinstance(output, tuple) else output)
            prompt.follow(reduction)
            output = (states, *output[1:]) if isinstance(output, tuple) else states
        if prompt.plans and self._entered is not None:
            prompt.record(self.index, self._entered, prompt.keys[-1])
        if self.index == len(self.session.layers) - 1:
            prompt.finish()
        self._reduction = self._entered = None
        return output

    def _view(
        self, prompt: Prompt, states: Tensor, seen: Seen | None, remove: Tensor, removals: list[tuple[int, ...]]
    ) -> LayerView:
        device = states.device  # of a model on several, this layer's
        prompt.stream = prompt.stream.to(device)
        return LayerView(
            layer_index=self.index,
            num_layers=len(self.session.layers),
            seed=self.session.strategy.seed,
            spans=prompt.stream.spans,
            query=None if seen is None else seen.query.to(device),
            key=None if seen is None else seen.key.to(device),
            states=states,
            scale=1.0 if seen is None else seen.scale,
            key_valid=None if seen is None or seen.valid is None else seen.valid.to(device),
            clip_keys=prompt.clip_keys.to(device),
            token_valid=prompt.stream.valid,
            remove=remove[self.index].to(device),
            removals=removals[self.index],
            kept=prompt.kept,
        )

    def _reduce(self, prompt: Prompt, states: Tensor, seen: Seen | None) -> tuple[Reduction, Stream]:
        strategy = self.session.strategy
        layer = self._view(prompt, states, seen, prompt.remove, prompt.plans)
        stream, plan = prompt.stream, plan_of(strategy, layer)
        if strategy.merger.is_exact():
            removed = prompt.plans[self.index]
            survivors = tuple(n - k for n, k in zip(stream.spans.tokens, removed, strict=True))
        else:  # only the device knows how many went
            clusters = plan.cluster.masked_fill(~layer.valid, -1).amax(1) + 1
            survivors = tuple(int(n) for n in clusters.cpu())
            removed = tuple(n - left for n, left in zip(stream.spans.tokens, survivors, strict=True))
            prompt.replan(self.index, removed)
        reduction, left = apply_plan(stream, plan, survivors)
        for name, (at, scores) in prompt.kept.items():
            prompt.kept[name] = at, reduction.add_up(scores, stream.spans, left.spans)
        self.session.trace.follow(self.index, reduction.target, reduction.width)
        return reduction, left

    def _evict(self, prompt: Prompt, states: Tensor, seen: Seen) -> None:
        """Each key/value head keeps its own choice of audio keys in the cache."""
        strategy = self.session.evicting
        if strategy is None or prompt.cache is None:
            return
        layer = by_head(self._view(prompt, states, seen, prompt.evict, prompt.evictions))
        kept = plan_of(strategy, layer).cluster >= 0
        cached, removed = prompt.cache.layers[self.index], prompt.evictions[self.index]
        prompt.keys[-1] = evict(cached, prompt.keys[-1], prompt.stream, kept, removed)
