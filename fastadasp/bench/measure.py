"""One run of a model, taken apart: prefill, decoding, memory, and the share of the reduction itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fastadasp.bench.machine import held_bytes, peak_bytes, reset_peak
from fastadasp.counts.shape import DecoderShape
from fastadasp.inference.costs import cache_bytes, sample_costs
from fastadasp.inference.machine import wait
from fastadasp.models.lookup import adapter_for
from fastadasp.upstream.names import cache_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastadasp.bench.encoders import Encoder
    from fastadasp.engine.trace import LayerTrace, Trace
    from fastadasp.strategy import Strategy


@dataclass(frozen=True)
class Timed:
    """One call of ``generate``.

    Attributes:
        prefill_s: the first forward pass, which reads the prompt.
        decode_s: everything after it; None if nothing was decoded.
        peak_bytes: highest memory of the whole call, weights included; None where that cannot be told.
        prefill_peak_bytes: of the prefill alone.
        kv_bytes: keys and values after the prefill, all beams.
        layers: the trace of the prompt; empty for the full model.
    """

    prefill_s: float
    decode_s: float | None
    peak_bytes: int | None
    prefill_peak_bytes: int | None
    kv_bytes: int
    layers: tuple[LayerTrace, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """What the decoder gets: `embeds` [batch, T, D] and `spans` int [batch, T]; `audio` and `text` tokens a sample."""

    embeds: Tensor
    spans: Tensor
    audio: int
    text: int


def make_prompt(model: Any, audio: int, text: int, batch: int) -> Prompt:
    """A random prompt: a little text, the audio, the rest of the text. Neighbouring audio tokens are alike, as real."""
    import torch

    weight = model.get_input_embeddings().weight
    generator = torch.Generator(device=weight.device).manual_seed(audio)
    embeds = torch.randn(
        batch, audio + text, weight.shape[1], generator=generator, device=weight.device, dtype=torch.float32
    )
    embeds[:, 1:] += embeds[:, :-1].clone()
    spans = torch.zeros(batch, audio + text, dtype=torch.int64, device=weight.device)
    before = text // 4
    spans[:, before : before + audio] = 1
    return Prompt((0.02 * embeds).to(weight.dtype), spans, audio, text)


def applied(strategy: Strategy | None, model: nn.Module, prompt: Prompt) -> AbstractContextManager[Trace | None]:
    """The strategy at work, or the model alone."""
    return nullcontext() if strategy is None else strategy.apply(model, spans=prompt.spans)


def time_encoder(encoder: Encoder, inputs: list[dict[str, Any]], device: str) -> float:
    """Seconds that the encoders take for a batch of recordings."""
    import torch

    wait(device)
    begin = perf_counter()
    with torch.inference_mode():
        encoder(inputs)
    wait(device)
    return perf_counter() - begin


def time_run(
    model: Any, prompt: Prompt, strategy: Strategy | None, beams: int, new_tokens: int, compiled: bool = False
) -> Timed:
    """One call of ``generate``, timed; with beams the model itself repeats the prompt for each.

    Args:
        compiled: whether decoding is compiled, over a static cache.
    """
    import torch

    device, seen = prompt.embeds.device.type, dict[str, Any]()

    def begin(*_: Any) -> None:
        if "begin" not in seen:
            wait(device)
            reset_peak(device)
            seen["begin"] = perf_counter()

    def end(_module: Any, _args: Any, output: Any) -> None:
        if "end" not in seen:
            wait(device)
            seen["end"], seen["peak"] = perf_counter(), peak_bytes(device)
            seen["kv"] = cache_bytes(cache_of(output))
            for handle in handles:
                handle.remove()

    mask = torch.ones(prompt.embeds.shape[:2], dtype=torch.int64, device=prompt.embeds.device)
    with torch.inference_mode(), applied(strategy, model, prompt) as trace:
        handles = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
        try:
            model.generate(
                inputs_embeds=prompt.embeds,
                attention_mask=mask,
                num_beams=beams,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                **(_compiling() if compiled else {}),
            )
            wait(device)
            done = perf_counter()
        finally:
            for handle in handles:
                handle.remove()
    decode = done - seen["end"] if new_tokens > 1 else None
    layers = () if trace is None else tuple(trace.layers)
    return Timed(seen["end"] - seen["begin"], decode, peak_bytes(device), seen["peak"], seen["kv"], layers)


def _compiling() -> dict[str, Any]:
    """Options of ``generate`` for compiled decoding, which transformers would use on a GPU only."""
    from transformers import CompileConfig

    config = CompileConfig()
    config._compile_all_devices = True  # type: ignore[assignment]
    return {"cache_implementation": "static", "compile_config": config}


def flops(model: Any, prompt: Prompt, layers: Sequence[LayerTrace]) -> tuple[int, int]:
    """Analytic FLOPs of the decoder's prefill of one sample: as traced (the full model: no layers), and in full."""
    shape, total = DecoderShape.of(model.config), prompt.audio + prompt.text
    cost = sample_costs(shape, layers, [prompt.audio], [total], prompt.embeds.element_size())[0]
    return cost.flops, cost.flops_full


@dataclass(frozen=True)
class Reduction:
    """What a strategy adds to one prefill: `seconds` in its hooks, and the most `bytes` beyond those held before."""

    seconds: float
    bytes: int | None


def time_reduction(model: Any, prompt: Prompt, strategy: Strategy, beams: int) -> Reduction:
    """Time between the hooks set before the strategy's and those set after: scores, plans, means, positions, masks."""
    import torch

    device = prompt.embeds.device.type
    clock = _Clock(device)
    adapter = adapter_for(model)
    decoder = adapter.decoder(model)
    parts = [decoder]
    for layer in getattr(decoder, adapter.layers):
        parts += [layer, getattr(layer, adapter.norm), getattr(layer, adapter.mlp)]
    prompt = Prompt(
        prompt.embeds.repeat_interleave(beams, 0), prompt.spans.repeat_interleave(beams, 0), prompt.audio, prompt.text
    )
    with torch.inference_mode(), clock.around(parts, lambda: strategy.apply(model, spans=prompt.spans)):
        model(inputs_embeds=prompt.embeds, use_cache=True, logits_to_keep=1)
    wait(device)
    return Reduction(clock.seconds(), clock.bytes)


class _Clock:
    """Adds up the time that modules spend in hooks between two others."""

    def __init__(self, device: str) -> None:
        self.device, self.marks, self.bytes = device, list[Any](), (0 if held_bytes(device) is not None else None)
        self._held: int | None = None

    def _mark(self) -> Any:
        if self.device != "cuda":
            return perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def start(self, *_: Any) -> None:
        """Before the strategy's hook."""
        reset_peak(self.device)
        self._held = held_bytes(self.device)
        self.marks.append(self._mark())

    def stop(self, *_: Any) -> None:
        """After it."""
        self.marks.append(self._mark())
        peak = peak_bytes(self.device)
        if peak is not None and self._held is not None and self.bytes is not None:
            self.bytes = max(self.bytes, peak - self._held)

    @contextmanager
    def around(self, modules: list[Any], enter: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
        """Sets hooks before and after those that `enter` sets."""
        handles = [m.register_forward_pre_hook(self.start) for m in modules]
        handles += [m.register_forward_hook(self.start) for m in modules]
        try:
            with enter():
                handles += [m.register_forward_pre_hook(self.stop) for m in modules]
                handles += [m.register_forward_hook(self.stop) for m in modules]
                yield
        finally:
            for handle in handles:
                handle.remove()

    def seconds(self) -> float:
        """The sum of all intervals; the device must be done."""
        pairs = zip(self.marks[::2], self.marks[1::2], strict=True)
        if self.device == "cuda":
            return sum(float(begin.elapsed_time(end)) for begin, end in pairs) / 1e3
        return float(sum(end - begin for begin, end in pairs))
