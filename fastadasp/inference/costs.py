"""What a prompt costs: analytic FLOPs of the decoder's prefill and bytes of its cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastadasp.counts.shape import DecoderShape
from fastadasp.engine.trace import LayerTrace


@dataclass(frozen=True)
class SampleCost:
    """One sample's prompt: see the fields of `fastadasp.experiments.records.Efficiency`."""

    audio_tokens: int
    audio_tokens_left: int
    kv_bytes: int
    kv_bytes_full: int
    flops: int
    flops_full: int


def sample_costs(
    shape: DecoderShape, layers: Sequence[LayerTrace], audio: Sequence[int], prompt: Sequence[int], bytes_per_value: int
) -> list[SampleCost]:
    """Costs of each sample of a traced batch.

    Args:
        layers: the trace; empty for the full model.
        audio, prompt: audio tokens and all tokens of each sample's prompt, before any reduction.
    """
    out = []
    for i, (sound, total) in enumerate(zip(audio, prompt, strict=True)):
        path = [(x.tokens_in_per_sample[i], x.tokens_out_per_sample[i]) for x in layers] or [
            (total, total)
        ] * shape.layers
        keys = [x.kv_length_per_sample[i] for x in layers] or [total] * shape.layers
        out.append(
            SampleCost(
                audio_tokens=sound,
                audio_tokens_left=layers[-1].audio_tokens_per_sample[i] if layers else sound,
                kv_bytes=shape.kv_bytes(keys, bytes_per_value),
                kv_bytes_full=shape.kv_bytes([total] * shape.layers, bytes_per_value),
                flops=shape.prefill_flops(path),
                flops_full=shape.prefill_flops([(total, total)] * shape.layers),
            )
        )
    return out
