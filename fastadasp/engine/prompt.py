"""One forward pass through the decoder: what each layer receives, does and leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastadasp.engine.cache import CacheState, Keys, remember, state_of
from fastadasp.engine.masks import causal_mask
from fastadasp.engine.solve import BatchLengths, batch_removals, batch_removals_after
from fastadasp.engine.spans import AudioSpans, find_spans
from fastadasp.engine.stream import Reduction, Stream, apply_plan
from fastadasp.engine.trace import LayerTrace
from fastadasp.engine.view import LayerView, fingerprint_clips
from fastadasp.errors import ModelError, StrategyError

if TYPE_CHECKING:
    from fastadasp.engine.session import _Session


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
    ) -> None:
        self.session, self.cache = session, cache
        self.known = state_of(cache)
        self.joined: dict[tuple[int, int], _Joined] = {}
        self.keys: list[Keys] = []
        self.inputs: dict[str, Any] | None = None
        self.plans: list[tuple[int, ...]] = []
        self.acts = False
        self.remove = self.clip_keys = torch.zeros(0, dtype=torch.int64)
        self.stream = self.plain_stream = Stream((length,) * batch, length, None, _no_spans())
        session.check_cache(cache, past, self.known)
        if span_ids is None and self.known is None:
            return  # nothing to reduce and nothing was: the model is on its own
        session.check_supported(mask, cache)
        self._look_at_padding(mask, span_ids, past, batch, length)
        if span_ids is not None:
            self._plan()

    def _look_at_padding(self, mask: Any, span_ids: Tensor | None, past: int, batch: int, length: int) -> None:
        """Finds the audio spans and the padding: a pass's only wait for the device, and none in a decoding step."""
        if mask is not None and mask.shape[1] != past + length:
            raise ModelError(
                f"the attention mask covers {mask.shape[1]} positions, "
                f"but the cache holds {past} and the prompt adds {length}"
            )
        valid = None if mask is None or length == 1 else mask[:, past:].bool()
        lengths = (length,) * batch
        if valid is not None:
            lengths = tuple(int(n) for n in valid.sum(1).cpu())
            if min(lengths) == length:
                valid = None
        spans = _no_spans() if span_ids is None else find_spans(span_ids, valid)
        self.stream = self.plain_stream = Stream(lengths, length, valid, spans)
        if self.known is None:
            before = mask[:, :past].bool() if mask is not None and past else None
            counts = (past,) * batch if before is None else tuple(int(n) for n in before.sum(1).cpu())
            padded = before if min(counts) != past else None
            self.known = CacheState([Keys(past, counts, padded)] * len(self.session.layers))

    def _plan(self) -> None:
        session, spans = self.session, self.stream.spans
        lengths = BatchLengths(spans.tokens, spans.samples, self.stream.lengths)
        self.plans = batch_removals(session.strategy, len(session.layers), session.shape, lengths)
        self.acts = any(any(counts) for counts in self.plans)
        session.trace.begin()
        if self.acts:
            self.remove = torch.tensor(self.plans, dtype=torch.int64).to(spans.start.device)

    def replan(self, layer: int, removed: tuple[int, ...]) -> None:
        """After a merger that took other counts from the clips at `layer` than it was asked to."""
        session, stream = self.session, self.plain_stream
        lengths = BatchLengths(stream.spans.tokens, stream.spans.samples, stream.lengths)
        taken = [*self.plans[:layer], removed]
        rest = batch_removals_after(session.strategy, len(session.layers), session.shape, lengths, taken)
        self.plans = [*taken, *rest]
        self.remove = torch.tensor(self.plans, dtype=torch.int64).to(self.remove.device)

    def join(self, index: int) -> _Joined | None:
        """A layer's keys once this pass has been through it; None where nothing ever differs from the plain model."""
        if self.known is None:
            return None
        old, stream = self.known.layers[index], self.stream
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
        return joined.mask

    def record(self, index: int, entered: Stream, keys: Keys) -> None:
        """Adds a layer to the trace."""
        left = self.stream
        batch = len(left.lengths)
        self.session.trace.layers.append(
            LayerTrace(index, left.spans.per_sample(batch), entered.lengths, left.lengths, keys.lengths)
        )

    def finish(self) -> None:
        """After the last layer: keeps what the cache now holds."""
        if self.cache is not None and len(self.keys) == len(self.session.layers):
            remember(self.cache, CacheState(self.keys))


class LayerWork:
    """The hooks of one decoder layer."""

    def __init__(self, session: _Session, index: int) -> None:
        self.session, self.index = session, index
        self._seen: tuple[Tensor, Tensor, float] | None = None
        self._reduction: Reduction | None = None
        self._entered: Stream | None = None
        self._arguments: dict[str, Any] = {}

    def _acting(self) -> Prompt | None:
        prompt = self.session.prompt
        return prompt if prompt is not None and prompt.acts and any(prompt.plans[self.index]) else None

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the layer: gives it the survivors' rotary embeddings, positions and mask."""
        self._seen = self._reduction = None
        prompt = self.session.prompt
        if prompt is None:
            return None
        self._entered = prompt.stream
        if prompt.cache is None:
            prompt.cache = kwargs.get("past_key_values")
        joined = prompt.join(self.index)
        if joined is None:
            return None
        prompt.keys.append(joined.keys)
        states = args[0] if args else kwargs["hidden_states"]
        if self.index == 0 and prompt.acts:
            with torch.no_grad():
                prompt.clip_keys = fingerprint_clips(states, prompt.stream.spans)
        self._arguments = kwargs = kwargs | (prompt.inputs or {})
        if joined.keys.plain:
            return None
        return args, kwargs | {"attention_mask": prompt.mask_for(joined, states)}

    def see_attention(self, module: nn.Module, query: Tensor, key: Tensor, scale: float) -> None:
        if self._acting() is not None:
            self._seen = (query, key, scale)

    def before_norm(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """Between attention and MLP: makes the plan and reduces the MLP's input."""
        prompt = self._acting()
        if prompt is None:
            return None
        if self._seen is None:
            raise ModelError(
                f"layer {self.index} computed attention without transformers' attention interface, "
                "so its queries and keys cannot be seen; this model cannot be reduced"
            )
        states = args[0]
        with torch.no_grad():
            self._reduction, prompt.stream = self._reduce(prompt, states)
        return (self._reduction.reduce(states), *args[1:])

    def after_mlp(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return output if self._reduction is None else self._reduction.expand(output)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """After the layer: the reduced sum goes on, with positions of its own."""
        prompt, reduction = self.session.prompt, self._reduction
        if prompt is None:
            return output
        if reduction is not None:
            states = reduction.reduce(output[0] if isinstance(output, tuple) else output)
            prompt.inputs = self._position(prompt, reduction, states)
            output = (states, *output[1:]) if isinstance(output, tuple) else states
        if prompt.plans and self._entered is not None:
            prompt.record(self.index, self._entered, prompt.keys[-1])
        if self.index == len(self.session.layers) - 1:
            prompt.finish()
        self._seen = self._reduction = self._entered = None
        self._arguments = {}
        return output

    def _reduce(self, prompt: Prompt, states: Tensor) -> tuple[Reduction, Stream]:
        strategy, stream = self.session.strategy, prompt.stream
        query, key, scale = self._seen  # type: ignore[misc]
        keys = prompt.keys[-1]
        layer = LayerView(
            layer_index=self.index,
            num_layers=len(self.session.layers),
            seed=strategy.seed,
            spans=stream.spans,
            query=query,
            key=key,
            states=states,
            scale=scale,
            key_valid=keys.valid,
            clip_keys=prompt.clip_keys,
        )
        merger = strategy.merger
        if merger.reads == "affinity":
            pairs = layer.valid[:, 1:]
            select = strategy.select.affinity(layer).masked_fill(~pairs, float("-inf"))
        else:
            select = strategy.select.importance(layer).masked_fill(~layer.valid, float("inf"))
        weight = strategy.weight.importance(layer) if strategy.weight is not None else None
        plan = merger.plan(layer, select, weight, prompt.remove[self.index])
        if plan.cluster.shape != layer.valid.shape:
            raise StrategyError(
                f"merger {merger.name!r} gave a plan of shape {tuple(plan.cluster.shape)}, "
                f"not {tuple(layer.valid.shape)} (clips, audio tokens)"
            )
        if merger.is_exact():
            removed = prompt.plans[self.index]
            survivors = tuple(n - k for n, k in zip(stream.spans.tokens, removed, strict=True))
        else:  # only the device knows how many went
            clusters = plan.cluster.masked_fill(~layer.valid, -1).amax(1) + 1
            survivors = tuple(int(n) for n in clusters.cpu())
            removed = tuple(n - left for n, left in zip(stream.spans.tokens, survivors, strict=True))
            prompt.replan(self.index, removed)
        reduction, left = apply_plan(stream, plan, survivors)
        self.session.trace.follow(reduction.target, reduction.width)
        return reduction, left

    def _position(self, prompt: Prompt, reduction: Reduction, states: Tensor) -> dict[str, Any]:
        """The survivors' position arguments, in the layer's own names."""
        given, changed = self._arguments, dict[str, Any]()
        positions, rotary = given.get("position_ids"), given.get("position_embeddings")
        if positions is not None:
            kept = reduction.select(positions.unsqueeze(-1)).squeeze(-1)
            if self.session.strategy.positions == "compact":
                last = self._last_position(positions)
                back = torch.arange(reduction.width - 1, -1, -1, device=kept.device)
                kept = (last - back).clamp_min(0)
            changed["position_ids"] = kept
        if rotary is not None:
            if self.session.strategy.positions == "compact":
                changed["position_embeddings"] = self.session.rotary(states, changed["position_ids"])
            else:
                changed["position_embeddings"] = tuple(reduction.select(part) for part in rotary)
        return changed

    def _last_position(self, positions: Tensor) -> Tensor:
        """Each sample's last position, [B or 1, 1]."""
        valid = None if self._entered is None else self._entered.valid
        shown = positions if valid is None else positions.masked_fill(~valid, 0)
        return shown.amax(1, keepdim=True)


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
