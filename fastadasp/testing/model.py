"""A small decoder of random weights, and prompts for it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastadasp.testing.views import Prompt


@lru_cache(maxsize=4)
def small_decoder(layers: int) -> Any:
    """A Qwen2 with a language model head, 32 channels, float32, on the CPU; equal weights every time."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,  # attention far from uniform
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    model.generation_config.update(eos_token_id=None, bos_token_id=None, pad_token_id=0, do_sample=False)
    return model


def embeddings(model: Any, prompt: Prompt) -> Tensor:
    """What enters the decoder: [tokens, D]."""
    generator = torch.Generator().manual_seed(prompt.seed)
    weight = model.get_input_embeddings().weight
    rows: Tensor = torch.randn(len(prompt), weight.shape[1], generator=generator) * weight.float().std().cpu()
    return rows
