"""A strategy at work inside a model: hooks that reduce the audio tokens as a prompt passes through the decoder.

No model file is changed. For a layer that acts, with h the hidden states after its attention:

- the attention function shows the layer's queries and keys (`fastadasp.engine.attention`);
- a pre-hook on the second norm makes the token plan and hands R h to the MLP;
- a hook on the MLP expands its output with S, so that the block's own residual sum h + S mlp(norm(R h)) has the old
  length;
- a hook on the layer reduces that sum. Since R S = 1 this is R h + mlp(norm(R h)), exactly the shorter block.

Later layers get rotary embeddings, position ids and masks of the survivors from a pre-hook; each layer's cache simply
has its own length.

What happens in a call belongs to a pass (`fastadasp.engine.passes`), and the pass to the thread that runs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastadasp.counts.schedule import check_fit
from fastadasp.counts.shape import DecoderShape
from fastadasp.engine import checkpointing, static
from fastadasp.engine.attention import Watcher, implementation_of
from fastadasp.engine.begin import begin
from fastadasp.engine.calls import Arrival, Calls, Eye
from fastadasp.engine.encoder import EncoderSeen
from fastadasp.engine.hooks import Hook, LayerHooks
from fastadasp.engine.outputs import Asked
from fastadasp.engine.passes import Pass
from fastadasp.engine.survivors import Rotary
from fastadasp.engine.trace import Trace
from fastadasp.errors import ModelError, StrategyError
from fastadasp.models.lookup import adapter_for
from fastadasp.recipes.recipe import Recipe
from fastadasp.upstream.contracts import check_decoder
from fastadasp.upstream.names import cache_in


class Session:
    """A strategy applied to a model: what stays the same from call to call."""

    def __init__(self, strategy: Recipe, model: nn.Module, spans: Tensor | None, encoder: EncoderSeen | None) -> None:
        self.strategy, self.model, self.given_spans = strategy, model, spans
        self.evicting = strategy if strategy.site == "cache" else strategy.then
        self.adapter = adapter_for(model)
        self.decoder = self.adapter.decoder(model)
        self.layers: list[nn.Module] = list(getattr(self.decoder, self.adapter.layers))
        check_fit(strategy, len(self.layers))
        self.implementation = implementation_of(self.config)
        check_decoder(self.decoder, self.layers[0])
        self.trace, self.encoder_given = Trace(), encoder
        self.calls = Calls()
        self.layer_hooks = LayerHooks(self, self._modules_of_layers, lambda: self.config)
        self.allotted: list[int] = []  # columns of a static cache's layers
        self.takes_received = strategy.site != "cache" and strategy.asks_received()
        self._shape: DecoderShape | None = None
        self.window = attention_window(self.decoder)
        kinds = getattr(self.config, "layer_types", None) or ["full_attention"]
        self._first_of_kind = {kinds.index(kind) for kind in kinds}  # they see each kind of mask
        self._parts = [self.adapter.short_parts(layer) for layer in self.layers]
        self._entrance = self.adapter.entrance(model)
        self._parameters = tuple(inspect.signature(type(self._entrance).forward).parameters)[1:]

    @property
    def config(self) -> Any:
        """The decoder's configuration."""
        return self.decoder.config

    def shape(self) -> DecoderShape:
        """The decoder's sizes, for budgets that depend on them."""
        if self._shape is None:
            self._shape = replace(DecoderShape.of(self.config), layers=len(self.layers))
        return self._shape

    def watchers(self) -> dict[nn.Module, Watcher]:
        """By attention module, who is shown its queries and keys."""

        return {getattr(layer, self.adapter.attention): Eye(self.calls, i) for i, layer in enumerate(self.layers)}

    def modules(self) -> Iterator[nn.Module]:
        """Every module that gets a hook."""
        yield from (self._entrance, self.decoder)
        yield from self._modules_of_layers()

    def _modules_of_layers(self) -> Iterator[nn.Module]:
        for index in range(len(self.layers)):
            yield from self.layer_modules(index)

    def layer_modules(self, index: int) -> Iterator[nn.Module]:
        """Those of one layer."""
        yield self.layers[index]
        for pair in self._parts[index]:
            yield from pair

    def hook(self) -> None:
        """Sets every hook."""
        self._entrance.register_forward_pre_hook(Hook(self, self._enter_model), with_kwargs=True)
        self._entrance.register_forward_hook(Hook(self, self._leave_model))
        self.decoder.register_forward_pre_hook(Hook(self, self._enter_decoder), with_kwargs=True)
        self.decoder.register_forward_hook(Hook(self, self._leave_decoder))
        for index in range(len(self.layers)):
            self.hook_layer(index)

    def hook_layer(self, index: int, owner: object | None = None) -> None:
        """Sets the hooks of one layer. Each asks the pass that is running in its own thread.

        Args:
            owner: who takes them off again; the session itself if not given.
        """
        calls, layer = self.calls, self.layers[index]
        owner, rests = self if owner is None else owner, index not in self._first_of_kind

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            short = static.settled(cache_in(kwargs), index)
            if short is not None:
                return args, kwargs | {"attention_mask": short.mask(kwargs["attention_mask"])}
            if torch.compiler.is_compiling():
                return None
            calls.entered = False
            return None if calls.running is None else calls.running.enter(index, args, kwargs)

        def before_norm(module: nn.Module, args: tuple[Any, ...]) -> Any:
            states = None if calls.running is None else calls.running.before_norm(index, args[0])
            return None if states is None else (states, *args[1:])

        def shorten(module: nn.Module, args: tuple[Any, ...]) -> Any:
            states = None if calls.running is None else calls.running.shorten(index, args[0])
            return None if states is None else (states, *args[1:])

        def expand(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return output if calls.running is None else _changed(output, calls.running.expand, index)

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return output if calls.running is None else _changed(output, calls.running.leave, index)

        layer.register_forward_pre_hook(Hook(owner, enter, compiled=True, rests=rests), with_kwargs=True)
        for i, (first, last) in enumerate(self._parts[index]):
            first.register_forward_pre_hook(Hook(owner, shorten if i else before_norm, rests=True))
            last.register_forward_hook(Hook(owner, expand, rests=True))
        # who records hidden states sees what is left
        layer.register_forward_hook(Hook(owner, leave, rests=True), prepend=True)

    def _enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = dict(zip(self._parameters, args, strict=False)) | kwargs
        self.adapter.check_call(self.model, given)
        ids, spans = given.get("input_ids"), None
        self.calls.entered = False
        if self.given_spans is None and ids is not None and ids.shape[1] > 1:
            spans = self.adapter.span_ids(self.model, ids, given)
            self.calls.entered = True
        asked = Asked.of(given, self.strategy.name)
        self.calls.arrival, self.calls.running = Arrival(spans, ids, given.get("attention_mask"), asked), None
        return ((), asked.call(given)) if asked else None

    def _leave_model(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        arrival, self.calls.arrival, self.calls.entered = self.calls.arrival, None, False
        if arrival is None:
            return None
        if not arrival.decoded and arrival.spans is not None and bool(arrival.spans.any()):
            raise ModelError(
                f"{type(module).__name__} ran without calling {type(self.decoder).__name__}, where strategy "
                f"{self.strategy.name!r} works: no audio token was removed"
            )
        return arrival.asked.answer(self._entrance, output)

    def advise(self, error: BaseException) -> None:
        """Adds what to do to the model's own message that clips and placeholders differ in length."""
        if self.calls.entered and isinstance(error, ValueError | RuntimeError) and "match" in str(error):
            error.add_note(
                "A prompt cut to a maximum length may end inside a clip: the model needs a placeholder for each audio "
                "token. Raise the maximum, switch truncation off, or shorten the audio and let the processor expand it."
            )

    def _enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = cache_in(kwargs)
        states = kwargs.get("inputs_embeds")
        ids = kwargs.get("input_ids", args[0] if args else None)
        given = states if states is not None else ids
        self.calls.running = None
        if given is None:
            return  # the decoder's own message about that is clear
        arrival = self.calls.arrival
        if arrival is not None:
            arrival.decoded = True
        rows, length = given.shape[:2]
        if static.settled(cache) is not None:
            self.layer_hooks.stay()  # compiled code was made with them
            self._continue(rows, length, given.device)
            return
        past = 0 if cache is None else int(cache.get_seq_length())
        mask = kwargs.get("attention_mask")
        if static.is_fresh(cache):
            self.layer_hooks.stay()
            mask = static.padding_mask(mask, length)
        elif isinstance(mask, dict):  # made by the model around the decoder, of the mask that it was given itself
            mask = None if arrival is None else arrival.mask
        if isinstance(mask, Tensor):
            mask = mask.to(given.device)  # a model on several devices may be called with the prompt on another
        cached = self._check_once(kwargs, cache)
        checkpointing.prepare(self)
        spans = self._spans_for(rows, length, past, given.device)
        self.run(
            begin(
                self,
                cache=cache,
                past=past,
                size=(rows, length),
                mask=mask,
                spans=spans,
                given=kwargs,
                cached=cached,
            )
        )

    def run(self, what: Pass) -> None:
        """From now on `what` is the pass of this thread; layers have their hooks if it needs them."""
        if self.calls.holds != what.hooked:
            (self.layer_hooks.hold if what.hooked else self.layer_hooks.release)()
            self.calls.holds = what.hooked
        if not what.hooked:
            self.calls.entered = False  # the layers will not say that they were
            self.layer_hooks.rest()
        self.calls.running = what

    def _rest(self) -> None:
        """Ends what `run` began."""
        if self.calls.holds:
            self.calls.holds = False
            self.layer_hooks.release()

    def _check_once(self, kwargs: dict[str, Any], cache: Any) -> bool:
        """Refuses to plan a prompt anew for each token of its answer; answers whether keys and values are kept."""
        arrival, before = self.calls.arrival, self.calls.uncached
        use = kwargs.get("use_cache")
        cached = cache is not None or bool(getattr(self.config, "use_cache", True) if use is None else use)
        self.calls.uncached = ids = None if cached or arrival is None else arrival.ids
        if ids is None or before is None or ids.shape != (before.shape[0], before.shape[1] + 1):
            return cached
        if torch.equal(ids[:, :-1], before.to(ids.device)):
            raise StrategyError(
                f"strategy {self.strategy.name!r} reduces a prompt once, but with use_cache=False the model reads the "
                "prompt anew for each token of the answer; generate with use_cache=True"
            )
        return cached

    def _continue(self, rows: int, length: int, device: torch.device) -> None:
        """A pass over a static cache that is shortened: its layers know their masks."""
        spans = self._spans_for(rows, length, 1, device) if length > 1 else None
        if spans is not None and bool(spans.any()):
            raise ModelError("a static cache takes one prompt with audio; use the default dynamic cache for more")

    def _leave_decoder(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        running, self.calls.running = self.calls.running, None
        self._rest()
        if running is not None:
            running.end()
        if running is not None and self.calls.arrival is not None:
            clips = self.calls.arrival.spans if self.given_spans is None else self.given_spans
            self.calls.arrival.asked.reduced(running.left(), clips)

    def _spans_for(self, rows: int, length: int, past: int, device: torch.device) -> Tensor | None:
        """The span numbers of this forward pass, expanded to beams; None for a pass without audio."""
        if self.given_spans is not None:
            spans = self.given_spans
            if past:  # given spans describe the prompt; what follows it is text
                return None
            if spans.dim() != 2 or spans.shape[1] != length or rows % spans.shape[0]:
                raise ModelError(
                    f"spans has shape {tuple(spans.shape)}, but the prompt has {rows} sample(s) of {length} positions"
                )
            return spans.to(device).repeat_interleave(rows // spans.shape[0], dim=0)
        found = None if self.calls.arrival is None else self.calls.arrival.spans
        if found is None:
            if length > 1:
                raise ModelError(
                    "audio tokens are found in input_ids, but the model was called without them; pass spans="
                )
            return None
        if found.shape[1] != length:
            raise ModelError(
                f"the prompt has {found.shape[1]} tokens but the decoder got {length}: give one audio placeholder "
                "for each audio token (let the model's processor expand the prompt)"
            )
        return found.to(device)

    def exceeds_window(self, tokens: int) -> bool:
        """Whether a sliding window of the decoder hides some of so many tokens."""
        return self.window is not None and tokens > self.window

    def rotary(self) -> Rotary | None:
        """Rotary embeddings of new positions, where the strategy gives survivors such."""
        if self.strategy.positions != "compact":
            return None

        def embed(states: Tensor, positions: Tensor, layer: int) -> Any:
            made = self.adapter.rotary_embeddings(self.decoder, states, positions, layer)
            if made is None:
                raise StrategyError(
                    f'positions = "compact" needs rotary embeddings, which {type(self.decoder).__name__} lacks; '
                    'use "original" or "even"'
                )
            return made

        return embed


def attention_window(decoder: Any) -> int | None:
    """How many tokens the decoder's sliding-window layers look back; None if there are none.

    Raises:
        ModelError: there are layers with another kind of attention.
    """
    config = decoder.config
    kinds = getattr(config, "layer_types", None)
    other = set(kinds or ()) - {"full_attention", "sliding_attention"}
    if other:
        raise ModelError(
            f"{type(decoder).__name__} has layers of type {', '.join(sorted(other))}; "
            "only full_attention and sliding_attention are supported"
        )
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    window: int | None = getattr(config, "sliding_window", None) if slides else None
    return window


def _changed(output: Any, change: Any, index: int) -> Any:
    """A module's output, a tensor or a tuple that begins with one, with `change` made to that."""
    if isinstance(output, tuple):
        return (change(index, output[0]), *output[1:])
    return change(index, output)
