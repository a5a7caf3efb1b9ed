"""Clips ready for the decoder: the encoder runs once for each recording, and its output is shared by all cells."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastadasp.audio import file_seconds, read_audio
from fastadasp.contracts.task import Example
from fastadasp.engine.encoder import EncoderSeen
from fastadasp.engine.encoding import listening
from fastadasp.errors import DataError, ModelError
from fastadasp.inference.features import FeatureCache
from fastadasp.inference.load import LoadedModel
from fastadasp.inference.machine import clock, machine_name
from fastadasp.models.lookup import adapter_for

SHORTEST = 0.1
"""Seconds to which shorter recordings are padded with silence, so that every encoder gives at least one audio token."""

ENCODED = 2
"""Clips that a processor encodes at a time. Their states stay in its caches: with 12 a clip takes a sixth longer."""


@dataclass(frozen=True)
class Encoding:
    """What it took to make the audio tokens of a clip, from its features to the decoder's door.

    Attributes:
        seconds: its share of the batch that it was encoded in.
        machine: where that was (`machine_name`).
    """

    seconds: float
    machine: str


@dataclass(frozen=True)
class ReadyClip:
    """One example as the decoder receives it: `embeds` [T, D] and `span_ids` [T] (0: text).

    `side` is what the model needs beside them (`ModelAdapter.side_inputs`), without the dimension of samples; `encoder`
    what the audio encoder attended to, of families that show it; `encoding` what its audio tokens took, where that was
    measured.
    """

    example: Example
    embeds: Tensor
    span_ids: Tensor
    side: dict[str, Tensor] = field(default_factory=dict)
    encoder: EncoderSeen | None = None
    encoding: Encoding | None = None

    @property
    def tokens(self) -> int:
        return len(self.embeds)

    @property
    def audio_tokens(self) -> int:
        return int((self.span_ids > 0).sum())


class _Reached(Exception):
    """The decoder was reached; its inputs are known and nothing more is needed."""


def read_clip(example: Example, loaded: LoadedModel) -> NDArray[np.float32]:
    """The sound of an example. Raises DataError."""
    return long_enough(read_audio(example.audio, loaded.sampling_rate, loaded.longest_clip), loaded.sampling_rate)


def long_enough(wave: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """A recording at `rate` Hz of at least `SHORTEST` seconds, with silence at its end where it was shorter."""
    return np.pad(wave, (0, max(0, int(SHORTEST * rate) - len(wave))))


def decoder_inputs(loaded: LoadedModel, inputs: dict[str, Any]) -> Tensor:
    """The decoder's input embeddings, [B, T, D]: runs the encoder and projector, but no decoder layer."""
    seen: list[Tensor] = []
    entered: list[Any] = []  # some models also call layers by themselves, before the decoder

    def enter(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        entered.append(module)
        stop(kwargs.get("inputs_embeds"))  # a decoder that puts audio into the prompt itself gets none

    def reach(module: Any, args: Any) -> None:
        if entered:
            stop(args[0])

    def stop(embeds: Tensor | None) -> None:
        if embeds is not None:
            seen.append(embeds)
            raise _Reached

    adapter = adapter_for(loaded.model)
    decoder = adapter.decoder(loaded.model)
    handles = [
        decoder.register_forward_pre_hook(enter, with_kwargs=True),
        getattr(decoder, adapter.layers)[0].register_forward_pre_hook(reach),
    ]
    try:
        loaded.model(**inputs)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise ModelError(f"{type(loaded.model).__name__} finished without calling its decoder")
    return seen[0]


@torch.inference_mode()
def encoder_flops(loaded: LoadedModel, example: Example) -> int:
    """FLOPs from one clip's features to the decoder's door (encoder and projector), as FlopCounterMode counts them.

    Attention runs unfused for this one pass, since the counter does not know the fused kernel of CPUs.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    inputs = _features(loaded, [example], [read_clip(example, loaded)])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        decoder_inputs(loaded, inputs)
    return int(counter.get_total_flops())


def check_instruction(example: Example, loaded: LoadedModel) -> None:
    """Refuses an instruction with the model's own sign for audio: it would stand for a recording. Raises DataError."""
    sign = getattr(loaded.processor, "audio_token", None)
    if isinstance(sign, str) and sign and sign in example.instruction:
        raise DataError(
            f"{example.id}: the question holds {sign}, which stands for a recording in this model's prompts"
        )


def prompt_tokens(loaded: LoadedModel, example: Example) -> list[int]:
    """The tokens of an example's prompt, with its chat template; one sign stands for all audio tokens."""
    adapter = adapter_for(loaded.model)
    ids = _features(loaded, [example], [read_clip(example, loaded)])["input_ids"].cpu()
    audio = adapter.span_ids(loaded.model, ids)[0] > 0
    repeated = audio & torch.cat([audio.new_zeros(1), audio[:-1]])
    return [int(token) for token in ids[0][~repeated]]


def prompt_text(loaded: LoadedModel, example: Example) -> str:
    """As `prompt_tokens`, in words."""
    tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
    return str(tokenizer.decode(prompt_tokens(loaded, example), skip_special_tokens=False))


def _features(loaded: LoadedModel, examples: Sequence[Example], waves: Sequence[NDArray[np.float32]]) -> Any:
    """What the processor makes of these examples, whose sounds are `waves`, on the model's device."""
    instructions = [e.instruction for e in examples]
    for example in examples:
        check_instruction(example, loaded)
    adapter = adapter_for(loaded.model)
    return adapter.processor_inputs(loaded.processor, waves, instructions, loaded.sampling_rate).to(loaded.device)


@torch.inference_mode()
def encode(
    loaded: LoadedModel,
    examples: Sequence[Example],
    waves: Sequence[NDArray[np.float32]],
    known: Sequence[Tensor] | None = None,
    *,
    listen: bool = True,
) -> list[ReadyClip]:
    """Makes one batch ready.

    Args:
        waves: each example's sound at the model's rate, float32 [samples].
        known: each example's audio tokens [N, D], where they were encoded before; the encoder does not run then.
        listen: whether what the encoder attends to is kept, of families that show it.

    Raises:
        DataError: a sound became no audio token.
        ModelError: the model's ``generate`` cannot go on from embeddings.
    """
    adapter, model = adapter_for(loaded.model), loaded.model
    if "inputs_embeds" not in inspect.signature(model.prepare_inputs_for_generation).parameters:
        raise ModelError(
            f"{type(model).__name__} cannot generate from embeddings, which the commands of fastadasp need; use it in "
            "Python: with strategy.apply(model): model.generate(**inputs)"
        )
    inputs = _features(loaded, examples, waves)
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    spans, side = adapter.span_ids(model, ids), adapter.side_inputs(model, inputs)
    counts = [int((span > 0).sum()) for span in spans]
    seen: list[EncoderSeen | None] = [None] * len(counts)
    took: Encoding | None = None
    if known is None:
        with listening(adapter, model) if listen else nullcontext() as heard:
            begin = clock(loaded.device)
            embeds = decoder_inputs(loaded, inputs)
            took = Encoding((clock(loaded.device) - begin) / len(examples), machine_name(loaded.device))
        if heard is not None and all(counts):
            seen = heard.clips(counts)
    else:
        embeds = model.get_input_embeddings()(ids)
    ready = []
    for i, (example, row, shown, span) in enumerate(zip(examples, embeds, mask, spans, strict=True)):
        row, span = row[shown], span[shown]
        if not bool((span > 0).any()):
            raise DataError(f"{example.audio}: the model's processor made no audio token of it")
        if known is not None:
            row = row.clone()
            row[span > 0] = known[i].to(row.device)
        own = {name: value[i].cpu() for name, value in side.items()}
        one = seen[i]
        ready.append(ReadyClip(example, row.cpu(), span.cpu(), own, None if one is None else one.to("cpu"), took))
    return ready


def prepare(
    loaded: LoadedModel,
    examples: Sequence[Example],
    batch_size: int,
    progress: Callable[[int], None],
    *,
    listen: bool = True,
) -> dict[tuple[str, str], ReadyClip]:
    """Makes every example ready, by (recording, instruction); calls `progress(examples done)` after each batch.

    A recording asked about several times is encoded once, and not at all if its audio tokens are in the cache
    (`fastadasp.inference.features`). Recordings of like length go into a batch together.

    Args:
        listen: whether some strategy needs what the encoder attends to (`Recipe.needs`); summing it up takes a sixth of
            the encoder's own time.
    """
    ready: dict[tuple[str, str], ReadyClip] = {}
    wanted = list({(str(e.audio), e.instruction): e for e in examples}.values())
    cache = FeatureCache(loaded)
    sounds = {path: tokens for path in {e.audio for e in wanted} if (tokens := cache.get(path)) is not None}
    heard: dict[Path, EncoderSeen] = {}
    took = {path: Encoding(*about) for path in sounds if (about := cache.took(path)) is not None}
    if listen and adapter_for(loaded.model).encoder_attention(loaded.model) is not None:
        heard = {path: seen for path in sounds if (seen := cache.encoder(path)) is not None}
        sounds = {path: tokens for path, tokens in sounds.items() if path in heard}
    first = [e for path, e in {e.audio: e for e in reversed(wanted)}.items() if path not in sounds]
    first.sort(key=lambda e: file_seconds(e.audio))
    chosen = {(str(e.audio), e.instruction) for e in first}
    again = [e for e in wanted if (str(e.audio), e.instruction) not in chosen]
    for group in (first, again):
        size = min(batch_size, ENCODED) if group is first and loaded.device == "cpu" else batch_size
        for begin in range(0, len(group), size):
            batch = group[begin : begin + size]
            known = [sounds[e.audio] for e in batch] if group is again else None
            for clip in encode(loaded, batch, [read_clip(e, loaded) for e in batch], known, listen=listen):
                if known is None:
                    sounds[clip.example.audio] = clip.embeds[clip.span_ids > 0]
                    if clip.encoder is not None:
                        heard[clip.example.audio] = clip.encoder
                    if (own := clip.encoding) is not None:
                        took[clip.example.audio] = own
                    cache.put(
                        clip.example.audio,
                        sounds[clip.example.audio],
                        clip.encoder,
                        None if own is None else (own.seconds, own.machine),
                    )
                clip = replace(clip, encoder=heard.get(clip.example.audio), encoding=took.get(clip.example.audio))
                ready[str(clip.example.audio), clip.example.instruction] = clip
            progress(len(ready))
    if first:
        cache.trim()
    return ready


@dataclass(frozen=True)
class Batch:
    """Clips padded on the left: `embeds` [B, T, D], `mask` and `span_ids` [B, T]; `places` in the task's order.

    `side` is what the model needs beside them, one row a clip; `encoder` what the audio encoder attended to, if known.
    """

    clips: tuple[ReadyClip, ...]
    places: tuple[int, ...]
    embeds: Tensor
    mask: Tensor
    span_ids: Tensor
    side: dict[str, Tensor]
    encoder: EncoderSeen | None


def batches(clips: Sequence[ReadyClip], size: int, device: str) -> Iterator[Batch]:
    """Batches of clips of similar length, the longest first."""
    order = sorted(range(len(clips)), key=lambda i: -clips[i].tokens)
    for begin in range(0, len(order), size):
        places = order[begin : begin + size]
        chosen = [clips[i] for i in places]

        def pad(rows: list[Tensor]) -> Tensor:
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left").to(device)

        ones = [torch.ones(clip.tokens, dtype=torch.int64) for clip in chosen]
        spans = pad([clip.span_ids for clip in chosen])
        side = {name: torch.stack([clip.side[name] for clip in chosen]).to(device) for name in chosen[0].side}
        heard = [clip.encoder for clip in chosen if clip.encoder is not None]
        seen = EncoderSeen.together(heard).to(device) if len(heard) == len(chosen) else None
        yield Batch(tuple(chosen), tuple(places), pad([clip.embeds for clip in chosen]), pad(ones), spans, side, seen)
