"""A strategy at work inside a model: hooks that reduce the audio tokens as a prompt passes through the decoder.

No model file is changed. For a layer that acts, with h the hidden states after its attention:

- the attention function shows the layer's queries and keys (`fastadasp.engine.attention`);
- a pre-hook on the second norm makes the token plan and hands R h to the MLP;
- a hook on the MLP expands its output with S, so that the block's own residual sum h + S mlp(norm(R h)) has the old
  length;
- a hook on the layer reduces that sum. Since R S = 1 this is R h + mlp(norm(R h)), exactly the shorter block.

Later layers get rotary embeddings, position ids and masks of the survivors from a pre-hook; each layer's cache simply
has its own length.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastadasp.counts.schedule import check_fit
from fastadasp.counts.shape import DecoderShape
from fastadasp.engine import static
from fastadasp.engine.attention import Watcher, watching
from fastadasp.engine.cache import CacheState, stored, unreduced
from fastadasp.engine.compiled import eager_only, uncompiled, without_compilation
from fastadasp.engine.layer import LayerWork
from fastadasp.engine.prompt import Prompt
from fastadasp.engine.survivors import Rotary
from fastadasp.engine.trace import Trace
from fastadasp.errors import ModelError, StrategyError
from fastadasp.models.adapter import ModelAdapter, adapter_for
from fastadasp.strategy import Strategy
from fastadasp.upstream.names import cache_in

_busy: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@contextmanager
def apply_strategy(strategy: Strategy, model: nn.Module, *, spans: Tensor | None = None) -> Iterator[Trace]:
    """Runs `model` with `strategy` for as long as the context is open; works with ``model(...)`` and ``generate``.

    Args:
        model: a transformers model of an installed family. On leaving, also by an exception, it is as it was.
        spans: int [B, T], which clip each prompt position belongs to (0: none). Needed only where the model is called
            with ``inputs_embeds``; otherwise audio tokens are found in ``input_ids``.

    Raises:
        ModelError: the family is not supported, or another strategy is already applied to the model.
        StrategyError: the strategy does not fit the model.
    """
    model = uncompiled(model)
    adapter = adapter_for(model)
    decoder = adapter.decoder(model)
    layers = list(getattr(decoder, adapter.layers))
    check_fit(strategy, len(layers))
    if decoder in _busy:
        raise ModelError(
            f"a strategy is already applied to this {type(model).__name__}; leave its context before entering another"
        )
    session = _Session(strategy, model, adapter, decoder, layers, spans)
    _busy.add(decoder)
    try:
        with ExitStack() as stack:
            watchers: dict[nn.Module, Watcher] = {
                getattr(layer, adapter.attention): session.work[i].see_attention for i, layer in enumerate(layers)
            }
            config: Any = decoder.config
            stack.enter_context(without_compilation(model))
            session.implementation = stack.enter_context(watching(config, watchers))
            for handle in session.hook():
                stack.callback(handle.remove)
            yield session.trace
    except (ValueError, RuntimeError) as error:
        session.advise(error)
        raise
    finally:
        _busy.discard(decoder)


class _Session:
    """Hooks of one `apply`, and the prompt that is passing through."""

    def __init__(
        self,
        strategy: Strategy,
        model: nn.Module,
        adapter: ModelAdapter,
        decoder: nn.Module,
        layers: list[nn.Module],
        spans: Tensor | None,
    ) -> None:
        self.strategy, self.model, self.adapter, self.decoder, self.layers = strategy, model, adapter, decoder, layers
        self.evicting = strategy if strategy.site == "cache" else strategy.then
        self.given_spans = spans
        self.found_spans: Tensor | None = None
        self._given_mask: Any = None
        self.awaits_audio = False  # from the model's call to its first layer
        self.implementation = ""
        self.trace = Trace()
        self.prompt: Prompt | None = None
        self.allotted: list[int] = []  # columns of a static cache's layers
        self.work = [LayerWork(self, i) for i in range(len(layers))]
        self._shape: DecoderShape | None = None
        self._window = attention_window(decoder)
        self._parts = [adapter.short_parts(layer) for layer in layers]
        self._entrance = adapter.entrance(model)
        self._parameters = tuple(inspect.signature(type(self._entrance).forward).parameters)[1:]

    def shape(self) -> DecoderShape:
        """The decoder's sizes, for budgets that depend on them."""
        if self._shape is None:
            self._shape = replace(DecoderShape.of(self.decoder.config), layers=len(self.layers))
        return self._shape

    def hook(self) -> Iterator[Any]:
        """Registers every hook and gives back its handle."""
        yield self._entrance.register_forward_pre_hook(eager_only(self._enter_model), with_kwargs=True)
        yield self.decoder.register_forward_pre_hook(eager_only(self._enter_decoder), with_kwargs=True)
        yield self.decoder.register_forward_hook(eager_only(self._leave_decoder))
        for layer, work, parts in zip(self.layers, self.work, self._parts, strict=True):
            yield layer.register_forward_pre_hook(work.enter, with_kwargs=True)
            for i, (first, last) in enumerate(parts):
                yield first.register_forward_pre_hook(eager_only(work.shorten if i else work.before_norm))
                yield last.register_forward_hook(eager_only(work.expand))
            yield layer.register_forward_hook(eager_only(work.leave))

    def _enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(self._parameters, args, strict=False)) | kwargs
        self.adapter.check_call(self.model, given)
        ids = given.get("input_ids")
        self.found_spans, self._given_mask = None, given.get("attention_mask")
        if self.given_spans is None and ids is not None and ids.shape[1] > 1:
            self.found_spans = self.adapter.span_ids(self.model, ids, given)
            self.awaits_audio = True

    def advise(self, error: Exception) -> None:
        """Adds what to do to the model's own message that clips and placeholders differ in length."""
        if self.awaits_audio and "match" in str(error):
            error.add_note(
                "A prompt cut to a maximum length may end inside a clip: the model needs a placeholder for each audio "
                "token. Raise the maximum, switch truncation off, or shorten the audio and let the processor expand it."
            )

    def _enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = cache_in(kwargs)
        states = kwargs.get("inputs_embeds")
        ids = kwargs.get("input_ids", args[0] if args else None)
        given = states if states is not None else ids
        if given is None:
            return  # the decoder's own message about that is clear
        rows, length = given.shape[:2]
        if static.settled(cache) is not None:
            self._continue(rows, length, given.device)
            return
        past = 0 if cache is None else int(cache.get_seq_length())
        mask = kwargs.get("attention_mask")
        if static.is_fresh(cache):
            mask = static.padding_mask(mask, length)
        elif isinstance(mask, dict):  # made by the model around the decoder, of the mask that it was given itself
            mask = self._given_mask
        self.prompt = Prompt(
            self,
            cache=cache,
            past=past,
            batch=rows,
            length=length,
            mask=mask,
            span_ids=self._spans_for(rows, length, past, given.device),
            positions=kwargs.get("position_ids"),
        )

    def _continue(self, rows: int, length: int, device: torch.device) -> None:
        """A pass over a static cache that is shortened: its layers know their masks."""
        self.prompt = None
        spans = self._spans_for(rows, length, 1, device) if length > 1 else None
        if spans is not None and bool(spans.any()):
            raise ModelError("a static cache takes one prompt with audio; use the default dynamic cache for more")

    def _leave_decoder(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.prompt, self.found_spans, self._given_mask = None, None, None

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
        found = self.found_spans
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
        return found

    def exceeds_window(self, tokens: int) -> bool:
        """Whether a sliding window of the decoder hides some of so many tokens."""
        return self._window is not None and tokens > self._window

    def check_supported(self, mask: Any, cache: Any, tokens: int) -> None:
        """Refuses what a strategy cannot work with, before the model runs; `tokens` are those of prompt and cache."""
        if self.exceeds_window(tokens):
            raise ModelError(
                f"{type(self.decoder).__name__} has layers that look back {self._window} tokens, but prompt and cache "
                f"have {tokens}; strategies need a prompt that its sliding windows hold"
            )
        if cache is not None and getattr(cache, "is_compileable", False) and not static.is_fresh(cache):
            raise ModelError(
                "a strategy can shorten a static cache that is new, not offloaded and without sliding windows, but not "
                "this one; use the default dynamic cache"
            )
        if isinstance(mask, dict) or (isinstance(mask, Tensor) and mask.dim() != 2):
            raise ModelError(
                "strategies need the plain [batch, tokens] attention mask; custom 4D masks are not supported"
            )

    def check_cache(self, cache: Any, past: int, known: CacheState | None) -> None:
        """Refuses a cache that is not as the last pass left it: its keys could not be told apart."""
        if cache is None:
            return
        count = len(self.layers)
        plain = [unreduced(cache, i, past) for i in range(count)]
        expected = plain if known is None else known.lengths()
        if [stored(cache, i) for i in range(len(self.layers))] != expected:
            raise ModelError(
                "the cache holds other keys than the last pass with a strategy left in it; a cache of reduced layers "
                "cannot be cropped, copied or filled elsewhere (assisted and prompt lookup decoding do so)"
            )

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
