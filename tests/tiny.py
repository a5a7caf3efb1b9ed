"""Small random models and prompts for the tests of the engine. Nothing is downloaded; every clip is random features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2Config, Qwen2ForCausalLM

import fastadasp
from fastadasp.upstream.names import cache_argument, cache_of

torch.set_num_threads(1)

PAD, AUDIO, VOCABULARY = 0, 1, 64
MEL_BINS, MEL_LENGTH = 8, 200  # at most 50 audio tokens a clip
LAYERS = 4

TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "initializer_range": 0.2,  # lively: attention far from uniform
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": PAD,
}


@lru_cache
def audio_model(attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """A Qwen2-Audio of 4 layers; the same weights for every attention implementation and dtype."""
    config = Qwen2AudioConfig(
        audio_config={
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "num_mel_bins": MEL_BINS,
            "max_source_positions": MEL_LENGTH // 2,
            "init_std": 0.2,
        },
        text_config={"model_type": "qwen2", **TEXT},
        audio_token_index=AUDIO,
        attn_implementation=attention,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2AudioForConditionalGeneration(config).eval().requires_grad_(False)
    model.generation_config.update(eos_token_id=None, bos_token_id=None, pad_token_id=PAD, do_sample=False)
    return model.to(dtype)


@lru_cache
def text_model(attention: str = "sdpa") -> Any:
    """A Qwen2 decoder with a language model head."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(Qwen2Config(**TEXT, attn_implementation=attention)).eval().requires_grad_(False)
    model.generation_config.update(eos_token_id=None, bos_token_id=None, pad_token_id=PAD, do_sample=False)
    return model


@dataclass(frozen=True)
class Sample:
    """A prompt: text of `text[0]` tokens, clip 0, text of `text[1]` tokens, clip 1, ... `seed` makes it."""

    text: tuple[int, ...]
    clips: tuple[int, ...] = ()
    seed: int = 0

    def ids(self) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed)
        ids: list[int] = []
        for i, count in enumerate(self.text):
            ids += torch.randint(2, VOCABULARY, (count,), generator=generator).tolist()
            ids += [AUDIO] * (self.clips[i] if i < len(self.clips) else 0)
        return ids

    def features(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + 1000)
        return torch.randn(len(self.clips), MEL_BINS, MEL_LENGTH, generator=generator)

    def __len__(self) -> int:
        return sum(self.text) + sum(self.clips)


ONE = Sample((5, 7), (23,), seed=1)
"""A prompt with one clip."""
MANY = (ONE, Sample((3, 4), (11,), seed=2), Sample((9,), seed=3), Sample((2, 3, 6), (14, 17), seed=4))
"""Unequal prompts: different clips, one without audio, one with two clips."""


def batch(*samples: Sample, side: str = "left") -> dict[str, Tensor]:
    """What a processor gives for these prompts, padded on `side`."""
    width = max(map(len, samples))
    ids = torch.full((len(samples), width), PAD)
    mask = torch.zeros(len(samples), width, dtype=torch.int64)
    for row, sample in enumerate(samples):
        columns = slice(width - len(sample), width) if side == "left" else slice(0, len(sample))
        ids[row, columns], mask[row, columns] = torch.tensor(sample.ids()), 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    counts = [count for sample in samples for count in sample.clips]
    if counts:
        inputs["input_features"] = torch.cat([sample.features() for sample in samples if sample.clips])
        lengths = 4 * torch.tensor(counts)
        inputs["feature_attention_mask"] = (torch.arange(MEL_LENGTH) < lengths.unsqueeze(1)).long()
    return inputs


def with_positions(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs with position ids that count real tokens only, as ``generate`` makes them."""
    mask = inputs["attention_mask"]
    return inputs | {"position_ids": (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)}


RECIPES: dict[str, dict[str, Any]] = {
    "average": {"select": "key-similarity", "weight": "uniform", "merger": "runs", "schedule": "constant"},
    "a-tome-fill": {"select": "key-similarity", "merger": "pairs", "schedule": "decay"},
    "a-tome-skip": {
        "select": "key-similarity",
        "merger": {"name": "pairs", "overlap": "skip"},
        "schedule": "constant",
    },
    "random-prune-decay": {"select": "random", "merger": "drop", "schedule": "decay"},
    "before": {
        "select": "random",
        "weight": "random",
        "merger": "runs",
        "schedule": "single-shot",
        "site": "input",
        "layers": {"name": "fixed", "layer": 0},
    },
    "input": {"select": "received-attention", "merger": "drop", "schedule": "constant", "site": "input"},
    "cache": {"select": "received-attention", "merger": "drop", "schedule": "decay", "site": "cache"},
    "first-cache": {
        "select": "random",
        "merger": "drop",
        "schedule": "single-shot",
        "site": "cache",
        "layers": {"name": "fixed", "layer": 0},
    },
    "average+cache": {
        "select": "key-similarity",
        "merger": "runs",
        "schedule": "constant",
        "then": {
            "select": "received-attention",
            "merger": "drop",
            "schedule": "single-shot",
            "layers": {"name": "fixed", "layer": 2},
            "budget": 0.4,
        },
    },
}
"""Recipes beside the installed ones, so that every built-in takes part."""


def strategy(name: str, **changes: Any) -> fastadasp.Strategy:
    """An installed strategy or one of `RECIPES`, starting at layer 1 unless `changes` say otherwise."""
    start = {"layers": {"name": "fixed", "layer": 1}}
    if name in RECIPES:
        return fastadasp.load_strategy({"name": name, "budget": 0.4, **start, **RECIPES[name], **changes})
    return fastadasp.load_strategy(name, **{**start, **changes})


def strategy_names() -> list[str]:
    """Every installed strategy and every recipe here; one name for strategies that do the same."""
    installed: dict[str, str] = {}
    for entry in fastadasp.get_registry().entries("strategy"):
        installed.setdefault(entry.value.replace(name="x", summary="", source="").content_hash(), entry.name)
    return [*installed.values(), *RECIPES]


def names_with_spans() -> list[str]:
    """Those that know all from embeddings; tests/test_encoder.py has the others."""
    return [name for name in strategy_names() if "encoder" not in strategy(name).needs()]


def error(ours: Tensor, theirs: Tensor) -> float:
    """Relative error in the norm."""
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def embed(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The decoder's input embeddings and the span numbers of `inputs`."""
    seen: list[Tensor] = []
    decoder = model.model.language_model
    handle = decoder.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    try:
        model(**inputs)
    finally:
        handle.remove()
    audio = inputs["input_ids"] == AUDIO
    before = torch.nn.functional.pad(audio, (1, 0))[:, :-1]
    return seen[0], (audio & ~before).cumsum(1) * audio


def cache_lengths(cache: Any) -> list[int]:
    return [int(layer.keys.shape[-2]) for layer in cache.layers]


def greedy(model: Any, inputs: dict[str, Tensor], steps: int, forced: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Logits of the prefill's last token and of `steps` decoding steps, by hand; `forced` gives the tokens to feed."""
    inputs = with_positions(inputs)
    lengths = inputs["attention_mask"].sum(1, keepdim=True)
    width = inputs["input_ids"].shape[1]
    out = model(**inputs, use_cache=True)
    last = out.logits[:, -1] if out.logits.shape[1] < width else out.logits[torch.arange(len(lengths)), _ends(inputs)]
    logits, mask = [last], inputs["attention_mask"]
    for step in range(steps):
        token = last.argmax(-1) if forced is None else forced[step]
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        out = model(
            input_ids=token.unsqueeze(1),
            attention_mask=mask,
            position_ids=lengths + step,
            **cache_argument(cache_of(out)),
            use_cache=True,
        )
        last = out.logits[:, -1]
        logits.append(last)
    return logits


def _ends(inputs: dict[str, Tensor]) -> Tensor:
    """The column of each row's last real token."""
    columns = torch.arange(inputs["attention_mask"].shape[1])
    return (inputs["attention_mask"] * columns).amax(1)
