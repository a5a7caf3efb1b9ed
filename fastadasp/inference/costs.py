"""What a prompt costs: analytic FLOPs of the decoder's prefill and bytes of its cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from fastadasp.counts.shape import DecoderShape
from fastadasp.inference.own_cost import own_flops

if TYPE_CHECKING:
    from fastadasp.engine.encoder import EncoderSeen
    from fastadasp.engine.trace import LayerTrace
    from fastadasp.recipes.recipe import Recipe


@dataclass(frozen=True)
class SampleCost:
    """One sample's prompt: see the fields of `Efficiency`."""

    audio_tokens: int
    audio_tokens_left: int
    kv_bytes: int
    kv_bytes_full: int
    flops: int
    flops_full: int
    own_flops: int | None = None


class Efficiency(BaseModel):
    """What one strategy cost on a task, over all of its clips."""

    model_config = ConfigDict(extra="forbid")

    audio_tokens: float = Field(description="audio tokens of a clip before the first layer, mean")
    audio_tokens_left: float = Field(description="audio tokens of a clip that leave the last layer, mean")
    audio_tokens_removed: float = Field(description="fraction of all audio tokens gone by the last layer")
    removed_deviation: float | None = Field(
        default=None, description="standard deviation over the clips of the fraction that each lost of its audio tokens"
    )
    removed_least: float | None = Field(default=None, description="the least such fraction of a clip")
    removed_most: float | None = Field(default=None, description="the largest such fraction of a clip")
    threshold: float | None = Field(
        default=None,
        description="threshold of the merger that meets a budget over the run (`mean-tokens`, `mean-flops`) on these "
        "clips; null for other budgets",
    )
    kv_bytes: float = Field(
        description="bytes of keys and values after the prompt, mean of a clip, padding not counted; heads are as wide "
        "as the longest"
    )
    kv_removed: float = Field(description="fraction of those bytes removed against the full model")
    kv_bytes_end: float | None = Field(
        default=None,
        description="bytes of the cache's tensors after the answers' last tokens, padding and answers that ended "
        "earlier included, mean of a clip; null if not measured",
    )
    kv_removed_end: float | None = Field(
        default=None, description="fraction of those bytes removed against the full model; null if not measured"
    )
    flops: float = Field(description="FLOPs of the decoder's prefill, mean of a clip (analytic; encoder not counted)")
    flops_removed: float = Field(description="fraction of those FLOPs removed against the full model")
    own_flops: float | None = Field(
        default=None,
        description="FLOPs of what the strategy itself computes (scores, choice, means; what it reads of the encoder's "
        "attention), mean of a clip; null where a component does not state them",
    )
    flops_removed_net: float | None = Field(
        default=None,
        description="fraction of the decoder's FLOPs removed, less what the strategy itself computes; below 0 where it "
        "costs more than it removes; null as before",
    )
    encoder_flops: float | None = Field(
        default=None,
        description="FLOPs of audio encoder and projector for one clip, counted once by torch's FlopCounterMode; "
        "null if not counted",
    )
    flops_with_encoder: float | None = Field(
        default=None,
        description="FLOPs of audio encoder, projector and decoder's prefill together, mean of a clip; null if not "
        "counted",
    )
    flops_removed_with_encoder: float | None = Field(
        default=None,
        description="fraction removed of the decoder's and the encoder's FLOPs together; null if not counted",
    )
    flops_removed_net_with_encoder: float | None = Field(
        default=None,
        description="fraction removed of the decoder's and the encoder's FLOPs together, less what the strategy itself "
        "computes; null where one of them is not known",
    )
    prefill_seconds: float = Field(
        description="time of the decoder's prefill, median of a batch but the first, seconds"
    )
    decode_seconds: float = Field(
        description="time of all steps after the prefill, median of a batch but the first, seconds"
    )
    encoder_clip_seconds: float | None = Field(
        default=None,
        description="time of audio encoder and projector for a clip when its features were made: its share of its "
        "batch, median of the clips, seconds; null where it is not known",
    )
    prefill_clip_seconds: float | None = Field(
        default=None,
        description="time of the decoder's prefill for a clip: its share of its batch, median of the clips, seconds",
    )
    decode_clip_seconds: float | None = Field(
        default=None, description="the same of all steps after the prefill, seconds"
    )
    encoder_machine: str | None = Field(
        default=None, description="the machine that the features were made on; null where that is not known"
    )
    machine: str | None = Field(default=None, description="the machine that the decoder ran on, with its threads")
    new_tokens: float = Field(description="decoding steps of a batch, mean")
    batch_size: int = Field(description="clips in a batch (the last may hold fewer)")


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values that a cache holds, as its tensors are."""
    tensors = (x for layer in cache.layers for x in (layer.keys, layer.values) if x is not None)
    return sum(x.numel() * x.element_size() for x in tensors)


def sample_costs(
    shape: DecoderShape,
    layers: Sequence[LayerTrace],
    audio: Sequence[int],
    prompt: Sequence[int],
    bytes_per_value: int,
    strategy: Recipe | None = None,
    encoder: EncoderSeen | None = None,
) -> list[SampleCost]:
    """Costs of each sample of a traced batch.

    Args:
        layers: the trace; empty for the full model.
        audio, prompt: audio tokens and all tokens of each sample's prompt, before any reduction.
        strategy: what was traced; its own work is counted, too. None for the full model.
        encoder: what the audio encoder attended to, one row a sample; None where that is not known.
    """
    out = []
    for i, (sound, total) in enumerate(zip(audio, prompt, strict=True)):
        path = [(x.tokens_in_per_sample[i], x.tokens_out_per_sample[i]) for x in layers] or [
            (total, total)
        ] * shape.layers
        keys = [x.kv_columns_per_sample[i] for x in layers] or [total] * shape.layers
        out.append(
            SampleCost(
                audio_tokens=sound,
                audio_tokens_left=layers[-1].audio_tokens_per_sample[i] if layers else sound,
                kv_bytes=shape.kv_bytes(keys, bytes_per_value),
                kv_bytes_full=shape.kv_bytes([total] * shape.layers, bytes_per_value),
                flops=shape.prefill_flops(path),
                flops_full=shape.prefill_flops([(total, total)] * shape.layers),
                own_flops=0 if strategy is None else own_flops(strategy, shape, layers, i, sound, total, encoder),
            )
        )
    return out
