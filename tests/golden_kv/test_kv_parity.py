"""Parity with NVIDIA's kvpress: every case of every pair in the folder given by ``--golden-kv DIR``.

The pair beside this file was written by running kvpress (see README.md here). Its conditions: batch 1, and every token
of the prompt may go. That is said in both ways there are: the whole prompt counts as audio, or a part of it does and
the recipe evicts any.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

import fastadasp
from fastadasp.engine import reducing
from fastadasp.upstream.names import cache_argument, cache_of

LOGITS, SCORES = 1e-4, 1e-3


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = Path(metafunc.config.getoption("--golden-kv"))
    if "index" not in metafunc.fixturenames:
        metafunc.parametrize("path", [pytest.param(path, id=path.stem) for path in sorted(folder.glob("*.json"))])
        return
    cases = []
    for path in sorted(folder.glob("*.json")):
        for index, case in enumerate(json.loads(path.read_text())["cases"]):
            inner = f"-{case['inner']['press']}" if case.get("inner") else ""
            cases.append(pytest.param(path, index, id=f"{path.stem}-{index}-{case['press']}{inner}"))
    metafunc.parametrize(("path", "index"), cases)


@lru_cache(maxsize=1)
def load(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], Qwen2ForCausalLM]:
    """A golden pair, with its weights in a transformers model."""
    spec = json.loads(path.read_text())
    tensors = load_file(path.with_suffix(".safetensors"))
    sizes = dict(spec["config"])
    sizes["rope_parameters"] = {"rope_type": "default", "rope_theta": sizes.pop("rope_theta")}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, attn_implementation="sdpa")).eval()
    model.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
    return spec, tensors, model


def scorer_of(press: str, params: dict[str, Any]) -> dict[str, Any]:
    """The scorer that a press is, with its parameters under our names."""
    window = {"window": params.get("window_size", 64), "kernel": params.get("kernel_size", 5)}
    return {
        "KnormPress": {"name": "key-norm", "prefer": "short"},
        "SnapKVPress": {"name": "window-attention", **window},
        "PyramidKVPress": {"name": "window-attention", **window},
        "TOVAPress": {"name": "last-query-attention", "together": True},
        "StreamingLLMPress": {"name": "sinks-and-recent", "sinks": params.get("n_sink", 4)},
        "ObservedAttentionPress": {"name": "received-attention", "per_query": True},
        "ExpectedAttentionPress": {
            "name": "expected-attention",
            "ahead": params.get("n_future_positions", 512),
            "sinks": params.get("n_sink", 4),
            "covariance": params.get("use_covariance", True),
            "values": params.get("use_vnorm", True),
            "epsilon": params.get("epsilon", 0.0),
        },
    }[press]


def strategy_for(case: dict[str, Any], length: int, evicts: str) -> fastadasp.Strategy:
    """The recipe that a case's press is."""
    ratio, params = case["compression_ratio"], case["params"]
    kept = max(1, int(length * (1 - ratio)))
    recipe: dict[str, Any] = {
        "name": "case",
        "site": "cache",
        "evicts": evicts,
        "merger": "drop",
        "schedule": "single-shot",
        "layers": {"name": "fixed", "layer": 0},
        "budget": (length - kept) / length,
    }
    if case["press"] == "AdaKVPress":
        recipe["select"] = scorer_of(case["inner"]["press"], case["inner"])
        recipe["merger"] = {"name": "drop-across-heads", "safe": params.get("alpha_safeguard", 0.2)}
    else:
        recipe["select"] = scorer_of(case["press"], params)
    if case["press"] == "PyramidKVPress":
        window = params.get("window_size", 64)
        recipe["schedule"] = {"name": "pyramid", "beta": params.get("beta", 20), "window": window}
        recipe["budget"] = {"ratio": ratio}
    return fastadasp.load_strategy(recipe)


class Watched:
    """What strategies chose, layer by layer: scores and kept places of each head."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scores: list[torch.Tensor] = []
        self.kept: list[torch.Tensor] = []
        plan_of = reducing.plan_of

        def watched(strategy: fastadasp.Strategy, layer: fastadasp.LayerView) -> fastadasp.TokenPlan:
            self.scores.append(strategy.select.importance(layer))
            plan = plan_of(strategy, layer)
            self.kept.append(plan.cluster >= 0)
            return plan

        monkeypatch.setattr(reducing, "plan_of", watched)


def free_places(case: dict[str, Any], length: int) -> slice:
    """The places whose pairs are not kept in any case."""
    inner = case.get("inner") or {"press": case["press"], **case["params"]}
    if inner["press"] in ("SnapKVPress", "PyramidKVPress"):
        return slice(0, length - inner.get("window_size", 64))
    first = inner.get("n_sink", 4) if inner["press"] == "ExpectedAttentionPress" else 0
    return slice(first, length - (inner["press"] == "TOVAPress"))


def queries_of(spec: dict[str, Any], case: dict[str, Any]) -> int:
    """What our scores are to be divided by: `received-attention` sums over query heads where kvpress takes a mean."""
    config = spec["config"]
    shared = config["num_attention_heads"] // config["num_key_value_heads"]
    return shared if case["press"] == "ObservedAttentionPress" else 1


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("evicts", ["audio", "any"])
@torch.no_grad()
def test_parity(path: Path, index: int, evicts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, tensors, model = load(path)
    case = spec["cases"][index]
    ids = tensors[f"prompt{case['prompt']}.input_ids"]
    length = ids.shape[1]
    watched = Watched(monkeypatch)
    hidden = case["press"] == "AdaKVPress"
    places = torch.arange(length)
    audio = (places >= 3) & (places < length // 2) if evicts == "any" else places >= 0
    with strategy_for(case, length, evicts).apply(model, spans=audio.long().unsqueeze(0)):
        prefill = model(input_ids=ids, use_cache=True)
        cache = cache_of(prefill)
        decoded = [
            model(
                input_ids=torch.tensor([[token]]), position_ids=torch.tensor([[length + step]]), **cache_argument(cache)
            )
            for step, token in enumerate(case["tokens"])
        ]
    assert relative_error(prefill.logits[0, -1], tensors[f"prompt{case['prompt']}.prefill_logits"]) <= LOGITS
    for layer, (kept, scores) in enumerate(zip(watched.kept, watched.scores, strict=True)):
        for head, chosen in enumerate(kept):
            ours = chosen.nonzero().flatten().tolist()
            theirs = case["masked" if hidden else "kept"][layer][head]
            assert ours == (sorted(set(range(length)) - set(theirs)) if hidden else theirs), (layer, head)
        if case["press"] != "StreamingLLMPress":  # any numbers in its order will do
            free, known = free_places(case, length), tensors[f"case{index}.scores"][layer]
            assert relative_error(scores[:, free] / queries_of(spec, case), known[:, free]) <= SCORES, layer
    ours = torch.stack([out.logits[0, -1] for out in decoded])
    assert relative_error(ours, tensors[f"case{index}.decode_logits"]) <= LOGITS
    if not hidden:
        lengths = [held.keys.shape[-2] - len(case["tokens"]) for held in cache.layers]
        assert lengths == case["kv_lengths"]
