"""What happened in the last prompt, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LayerTrace:
    """Token counts of one layer in the last prompt; ``_per_sample`` fields hold one entry a sample, without padding.

    Attributes:
        layer: 0-based.
        audio_tokens_per_sample: audio tokens that leave the layer.
        tokens_in_per_sample: all tokens that enter its attention.
        tokens_out_per_sample: all tokens that its MLP sees and that leave it.
        kv_length_per_sample: keys in its cache after the prompt (earlier turns included).
    """

    layer: int
    audio_tokens_per_sample: tuple[int, ...]
    tokens_in_per_sample: tuple[int, ...]
    tokens_out_per_sample: tuple[int, ...]
    kv_length_per_sample: tuple[int, ...]

    @property
    def audio_tokens(self) -> int:
        """Audio tokens that leave the layer, of the sample that has most."""
        return max(self.audio_tokens_per_sample)

    @property
    def kv_length(self) -> int:
        """Keys in the layer's cache after the prompt, of the sample that has most."""
        return max(self.kv_length_per_sample)


@dataclass
class Trace:
    """Filled as the model runs: `layers` describes the last prompt (empty before the first)."""

    layers: list[LayerTrace] = field(default_factory=list)
