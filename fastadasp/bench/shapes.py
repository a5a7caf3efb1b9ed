"""Decoders of known models by name, with random weights: their sizes decide their speed, what they learnt does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastadasp.bench.encoders import QWEN3_ASR, WAVLM, Part, whisper
from fastadasp.errors import UnknownNameError


@dataclass(frozen=True)
class BenchShape:
    """The text decoder of a speech model.

    Attributes:
        kind: the decoder's ``model_type``.
        rate: audio tokens a second that the model's encoder gives.
        encoder: its audio encoders, whose time is shown beside.
        sizes: fields of the decoder's configuration, from the public ``config.json`` of the model named in `source`.
    """

    name: str
    source: str
    kind: str
    rate: float
    sizes: dict[str, Any] = field(default_factory=dict)
    encoder: tuple[Part, ...] = ()

    def tokens(self, seconds: float) -> int:
        """Audio tokens of a recording."""
        return max(1, round(seconds * self.rate))


def _sizes(
    hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, vocabulary: int, theta: float, **more: Any
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
        **more,
    }


SHAPES = {
    shape.name: shape
    for shape in (
        BenchShape(
            "qwen2-audio-7b", "Qwen/Qwen2-Audio-7B-Instruct", "qwen2", 25.0,
            _sizes(4096, 11008, 32, 32, 32, 156032, 10000.0), (whisper(1280, 32, 20, 128),),
        ),
        BenchShape(
            "voxtral-3b", "mistralai/Voxtral-Mini-3B-2507", "llama", 12.5,
            _sizes(3072, 8192, 30, 32, 8, 131072, 1e8, head_dim=128), (whisper(1280, 32, 20, 128),),
        ),
        BenchShape(
            "qwen2.5-omni-7b", "Qwen/Qwen2.5-Omni-7B (thinker)", "qwen2", 25.0,
            _sizes(3584, 18944, 28, 28, 4, 152064, 1e6), (whisper(1280, 32, 20, 128, 2.0),),
        ),
        BenchShape(
            "qwen3-asr-0.6b", "Qwen/Qwen3-ASR-0.6B", "qwen3", 12.5,
            _sizes(1024, 3072, 28, 16, 8, 151936, 1e6, head_dim=128, tie_word_embeddings=True), (QWEN3_ASR,),
        ),
        BenchShape(
            "wavllm-7b", "WavLLM (LLaMA-2-7B-chat); 25 tokens a second, 6,000 in 240 s", "llama", 25.0,
            _sizes(4096, 11008, 32, 32, 32, 32000, 10000.0), (whisper(1280, 32, 20, 80), WAVLM),
        ),
        BenchShape(
            "tiny", "none: for trying things out", "qwen2", 25.0, _sizes(64, 128, 8, 4, 2, 256, 10000.0),
            (whisper(64, 2, 4, 80),),
        ),
    )
}  # fmt: skip


def find_shape(name: str) -> BenchShape:
    """A shape by name. Raises UnknownNameError."""
    if name not in SHAPES:
        raise UnknownNameError("shape", name, SHAPES)
    return SHAPES[name]


def build(shape: BenchShape, device: str, dtype: str, attention: str) -> Any:
    """The decoder with its output head; random weights are made on the device, nothing is read or downloaded.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        attention: the implementation, ``sdpa`` or ``eager``.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(shape.kind, **shape.sizes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation=attention)
    model = model.to_empty(device=device).eval().requires_grad_(False)
    model.tie_weights()
    # what is computed rather than drawn
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=config).to(device)
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and name.endswith("norm.weight"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.02)
    model.generation_config.update(eos_token_id=None, bos_token_id=None, pad_token_id=0, do_sample=False)
    return model
