"""Parity with the authors' released code: every case of every pair in the folder given by ``--golden DIR``.

The pairs beside this file were written by running the released FastAdaSP model (see README.md here).
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2Model

import fastadasp
from fastadasp.upstream.names import cache_argument, cache_of

TOLERANCE = 1e-5
SCHEDULES = {"none": "single-shot", "constant": "constant", "decay": "decay"}
RECIPES: dict[str, dict[str, Any]] = {
    "merge_weighted": {"select": "key-similarity", "weight": "received-attention", "merger": "runs"},
    "merge_ave": {"select": "key-similarity", "weight": "uniform", "merger": "runs"},
    "atome": {"select": "key-similarity", "weight": "uniform", "merger": {"name": "pairs", "overlap": "skip"}},
    "evicit": {"select": "received-attention", "merger": "drop"},
    "kv_evict": {"select": "received-attention", "merger": "drop", "site": "cache"},
    "merge_kv_evict": {"select": "key-similarity", "weight": "received-attention", "merger": "runs"},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = Path(metafunc.config.getoption("--golden"))
    if "index" not in metafunc.fixturenames:
        metafunc.parametrize("path", [pytest.param(path, id=path.stem) for path in sorted(folder.glob("*.json"))])
        return
    cases = []
    for path in sorted(folder.glob("*.json")):
        for index, case in enumerate(json.loads(path.read_text())["cases"]):
            label = f"{path.stem}-{index}-{case['method']}-{case['schedule']}-{case['ratio']}"
            cases.append(pytest.param(path, index, id=label))
    metafunc.parametrize(("path", "index"), cases)


@lru_cache(maxsize=1)
def load(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], Qwen2Model]:
    """A golden pair, with its weights in a transformers model."""
    spec = json.loads(path.read_text())
    tensors = load_file(path.with_suffix(".safetensors"))
    sizes = dict(spec["config"])
    sizes["rope_parameters"] = {"rope_type": "default", "rope_theta": sizes.pop("rope_theta")}
    model = Qwen2Model(Qwen2Config(**sizes, attn_implementation="sdpa")).eval()
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if [name for name in missing if "embed_tokens" not in name] or unexpected:
        raise ValueError(f"{path}: weights do not fit Qwen2Model: missing {missing}, unexpected {unexpected}")
    return spec, tensors, model


def evicted(case: dict[str, Any], text: int, audio: int) -> int:
    """How many of `audio` keys each head evicts: the released code's ratio counts what is kept, text included."""
    return text + audio - int(text + case["ratio"] * audio)


def strategy_for(spec: dict[str, Any], case: dict[str, Any], total: int) -> fastadasp.Strategy | None:
    """The recipe that a case's method is, or None for the plain model."""
    if case["method"] == "none":
        return None
    if case["method"] not in RECIPES:
        pytest.skip(f"no recipe for method {case['method']!r}")
    recipe = {
        "name": "case",
        **RECIPES[case["method"]],
        "schedule": SCHEDULES[case["schedule"]],
        "layers": {"name": "fixed", "layer": case["layer"]},
        "positions": "compact",
        "budget": {"ratio": case["ratio"]},
    }
    if "kv_evict" in case["method"]:  # evicts at every layer from the start layer on, whatever its schedule is called
        audio = spec["audio_stop"] - spec["audio_start"]
        merged = audio - int(audio * case["ratio"]) if case["method"] == "merge_kv_evict" else audio
        eviction = {
            **RECIPES["kv_evict"],
            "schedule": "single-shot",
            "budget": {"ratio": evicted(case, total - audio, merged) / merged + 1e-9},
        }
        if case["method"] == "kv_evict":
            recipe |= eviction
        else:
            recipe |= {"then": eviction | {"layers": {"name": "fixed", "layer": case["layer"] + 1}}}
    return fastadasp.load_strategy(recipe)


def cached_lengths(spec: dict[str, Any], case: dict[str, Any], total: int) -> list[int]:
    """What each layer's cache holds: where the released code only hides evicted keys, ours are gone."""
    text = total - (spec["audio_stop"] - spec["audio_start"])
    first = {"kv_evict": case["layer"], "merge_kv_evict": case["layer"] + 1}.get(case["method"], 10**9)
    return [
        length - (evicted(case, text, length - text) if layer >= first else 0)
        for layer, length in enumerate(case["kv_lengths"])
    ]


def held_keys(cache: Any) -> list[int]:
    """The keys that each layer holds. A first layer that evicted some answers `get_seq_length` with the tokens seen."""
    return [layer.keys.shape[-2] for layer in cache.layers]


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@torch.no_grad()
def test_parity(path: Path, index: int) -> None:
    spec, tensors, model = load(path)
    case = spec["cases"][index]
    embeds = tensors["inputs_embeds"]
    strategy = strategy_for(spec, case, embeds.shape[1])
    expected = cached_lengths(spec, case, embeds.shape[1])
    spans = torch.zeros(embeds.shape[:2], dtype=torch.int64)
    spans[:, spec["audio_start"] : spec["audio_stop"]] = 1

    def run() -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        prefill = model(inputs_embeds=embeds, use_cache=True)
        lengths = held_keys(cache_of(prefill))
        position = torch.tensor([[embeds.shape[1]]])
        decode = model(inputs_embeds=tensors["next_embeds"], **cache_argument(cache_of(prefill)), position_ids=position)
        return prefill.last_hidden_state, decode.last_hidden_state, lengths

    if strategy is None:
        prefill, decode, lengths = run()
    else:
        with strategy.apply(model, spans=spans) as trace:
            prefill, decode, lengths = run()
        assert [layer.kv_length for layer in trace.layers] == expected
    assert lengths == expected
    assert relative_error(prefill, tensors[f"case{index}.prefill"]) <= TOLERANCE
    assert relative_error(decode, tensors[f"case{index}.decode"]) <= TOLERANCE


@torch.no_grad()
def test_eviction_from_the_first_layer_on(path: Path) -> None:
    """The prompt is as without a strategy, every layer holds fewer keys, and the first says how far it has come."""
    spec, tensors, model = load(path)
    embeds = tensors["inputs_embeds"]
    total = embeds.shape[1]
    case = {
        "method": "kv_evict",
        "schedule": "none",
        "ratio": 0.5,
        "layer": 0,
        "kv_lengths": [total] * spec["config"]["num_hidden_layers"],
    }
    strategy = strategy_for(spec, case, total)
    assert strategy is not None
    spans = torch.zeros(embeds.shape[:2], dtype=torch.int64)
    spans[:, spec["audio_start"] : spec["audio_stop"]] = 1
    plain = model(inputs_embeds=embeds, use_cache=True)
    with strategy.apply(model, spans=spans):
        prefill = model(inputs_embeds=embeds, use_cache=True)
        cache = cache_of(prefill)
        assert held_keys(cache) == cached_lengths(spec, case, total)
        assert max(held_keys(cache)) < total
        assert cache.get_seq_length() == total
        following = {"inputs_embeds": tensors["next_embeds"], "position_ids": torch.tensor([[total]])}
        decode = model(**following, **cache_argument(cache))
    assert relative_error(prefill.last_hidden_state, plain.last_hidden_state) <= TOLERANCE
    whole = model(**following, **cache_argument(cache_of(plain)))
    assert relative_error(decode.last_hidden_state, whole.last_hidden_state) > TOLERANCE
