"""The audio encoders of known models, with random weights: what comes before the decoder, and what no strategy saves.

Sizes are those of the public ``config.json`` files. Pooling and projection into the decoder are left out: they are two
matrices or less.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Any

FRAMES = 100
"""Of mel features in a second."""
RATE = 16_000
"""Samples in a second, for encoders that hear the wave itself."""


@dataclass(frozen=True)
class Part:
    """One encoder.

    Attributes:
        kind: ``whisper`` (also those of Qwen2-Audio, Voxtral and Qwen2.5-Omni, which are built alike), ``wavlm`` or
            ``qwen3_asr_encoder``.
        window: seconds that it hears at a time; a longer recording is so many windows side by side.
        sizes: fields of its configuration.
    """

    kind: str
    window: float
    sizes: dict[str, Any] = field(default_factory=dict)

    def windows(self, seconds: float) -> int:
        """How many windows a recording fills."""
        return ceil(seconds / self.window)


def whisper(width: int, layers: int, heads: int, mels: int, window: float = 30.0) -> Part:
    """An encoder as Whisper's; its windows are padded to their whole length, as Whisper's are."""
    sizes = {
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * width,
        "num_mel_bins": mels,
        "max_source_positions": round(window * FRAMES / 2),
    }
    return Part("whisper", window, sizes)


WAVLM = Part("wavlm", 30.0)
"""WavLM base, whose sizes are the defaults of transformers."""
QWEN3_ASR = Part(
    "qwen3_asr_encoder",
    1.0,
    {
        "d_model": 896,
        "encoder_layers": 18,
        "encoder_attention_heads": 14,
        "encoder_ffn_dim": 3584,
        "output_dim": 1024,
    },
)
"""That of Qwen3-ASR-0.6B: convolutions over seconds, and attention within 8 of them."""


@dataclass(frozen=True)
class Encoder:
    """The encoders of one model, built."""

    parts: tuple[tuple[Part, Any], ...]

    def inputs(self, seconds: float, batch: int) -> list[dict[str, Any]]:
        """Random features of `batch` recordings for each part."""
        return [_features(part, module, seconds, batch) for part, module in self.parts]

    def __call__(self, inputs: list[dict[str, Any]]) -> None:
        """Runs all parts; what they give is of no use, since the weights are random."""
        for (_, module), given in zip(self.parts, inputs, strict=True):
            module(**given)


def build_encoder(parts: tuple[Part, ...], device: str, dtype: str, attention: str) -> Encoder:
    """The encoders on a device, in a dtype; nothing is read or downloaded."""
    import torch

    built = []
    for part in parts:
        with torch.device("meta"):
            module = _module(part, attention)
        module = module.to(getattr(torch, dtype)).to_empty(device=device).eval().requires_grad_(False)
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
            torch.manual_seed(0)
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    tensor.normal_(0.0, 0.02)
        built.append((part, module))
    return Encoder(tuple(built))


def parameters_of(part: Part) -> int:
    """Parameters of an encoder, counted without making them."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in _module(part, "sdpa").parameters())


def _module(part: Part, attention: str) -> Any:
    if part.kind == "whisper":
        from transformers import WhisperConfig

        from fastadasp.upstream.inside import WhisperEncoder

        sizes: dict[str, Any] = {**part.sizes, "attn_implementation": attention}
        return WhisperEncoder(WhisperConfig(**sizes))
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(part.kind, **part.sizes)
    if part.kind == "wavlm":  # it has its own attention
        from torch.nn.utils.parametrize import remove_parametrizations

        module: Any = AutoModel.from_config(config)
        remove_parametrizations(module.encoder.pos_conv_embed.conv, "weight")
        return module
    return AutoModel.from_config(config, attn_implementation=attention)


def _features(part: Part, module: Any, seconds: float, batch: int) -> dict[str, Any]:
    import torch

    weight = next(module.parameters())
    count = part.windows(seconds)

    def noise(*shape: int) -> Any:
        return torch.randn(*shape, device=weight.device, dtype=torch.float32).to(weight.dtype)

    if part.kind == "wavlm":
        return {"input_values": noise(batch * count, round(part.window * RATE))}
    mels = module.config.num_mel_bins
    if part.kind == "whisper":
        return {"input_features": noise(batch * count, mels, round(part.window * FRAMES))}
    frames = count * round(part.window * FRAMES)
    mask = torch.ones(batch, frames, dtype=torch.int64, device=weight.device)
    return {"input_features": noise(batch, mels, frames), "input_features_mask": mask}
