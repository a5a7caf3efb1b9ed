"""How much memory a benchmark takes at the least, told before anything is made."""

from __future__ import annotations

from fastadasp.bench.encoders import parameters_of
from fastadasp.bench.shapes import BenchShape
from fastadasp.errors import RunError
from fastadasp.inference.fit import free_bytes

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""


def model_bytes(
    shape: BenchShape, seconds: float, text: int, new_tokens: int, batch: int, beams: int, dtype: str, attention: str
) -> int:
    """The least that a run of a model holds at once: weights, keys and values, and one layer's states.

    A lower bound: what is above the memory that there is cannot run, what is below may still fail.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(shape.kind, **shape.sizes)
    with torch.device("meta"):
        decoder = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    width, rows = WIDTHS[dtype], batch * beams
    tokens = shape.tokens(seconds) + text
    heads, hidden = config.num_attention_heads, config.hidden_size
    head = getattr(config, "head_dim", None) or hidden // heads
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * head * (tokens + new_tokens) * rows
    states = rows * tokens * (2 * hidden + config.intermediate_size)
    square = rows * heads * tokens**2 if attention == "eager" else 0
    encoders = sum(map(parameters_of, shape.encoder))
    return int(width * (decoder + encoders + cache + states + square))


def operator_bytes(tokens: int, hidden: int, dtype: str) -> int:
    """The least that one reduction holds: queries, keys, states, and the states that are left."""
    return int(WIDTHS[dtype] * tokens * hidden * 3.5)


def check_room(what: str, needed: int, device: str, less: str) -> None:
    """Raises RunError if a device has less memory free than is needed at the least; `less` says what to ask for."""
    free = free_bytes(device)
    if needed > free:
        raise RunError(f"{what} needs at least {_told(needed)} of memory, but {_told(free)} are free here; {less}")


def _told(count: int) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count} bytes"
