"""The regression benchmark: what made the library fast stays. Ratios alone, so that any machine can run it.

Limits stand well below what docs/performance.md reports, since machines of tests are busy. The table is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import pytest
import torch
from speed_table import SPEED
from transformers import Qwen2Config, Qwen2ForCausalLM

import fastadasp
from fastadasp.bench import operator
from fastadasp.bench.measure import Prompt, applied, make_prompt
from fastadasp.counts.shape import DecoderShape
from fastadasp.kernels import cpu
from fastadasp.upstream.names import cache_argument, cache_of

TOKENS, TEXT = 1000, 50


@pytest.fixture(scope="module")
def figures() -> dict[str, tuple[float, float, float]]:
    """For each measure: what was found, the least that passes, the target of docs/performance.md."""
    torch.set_num_threads(1)  # other processes of a busy machine would stall several
    (row,) = operator.run([750], [4096], ["float32"], "cpu", rounds=5)
    (half,) = operator.run([750], [4096], ["bfloat16"], "cpu", rounds=5)
    scores = {d: row for d in ("float32", "bfloat16") for row in operator.run([2000], [1024], [d], "cpu", rounds=3)}
    (prefill, step), (prefill16, _) = _model(torch.float32), _model(torch.bfloat16)
    return {
        "plan + merge against one loop, bfloat16": (half["merge_ratio"], 3.0, 8.0),
        "scores in bfloat16 against float32": (scores["float32"]["score_s"] / scores["bfloat16"]["score_s"], 1.1, 2.0),
        "plan + merge against one loop": (row["merge_ratio"], 2.0, 12.0),
        "whole reduction against matrix and loop": (row["operator_ratio"], 3.0, 6.0),
        "realised fraction, single shot": (prefill["weighted"], 0.7, 0.9),
        "realised fraction, constant schedule": (prefill["fastadasp-dense"], 0.6, 0.8),
        "realised fraction, single shot, bfloat16": (prefill16["weighted"], 0.6, 0.9),
        "realised fraction, constant schedule, bfloat16": (prefill16["fastadasp-dense"], 0.55, 0.9),
        "plain model against nothing removed, prefill": (prefill["nothing"], 0.85, 0.99),
        "plain model against half removed, decoding step": (step, 0.85, 0.99),
    }


def _model(dtype: torch.dtype) -> tuple[dict[str, float], float]:
    """Realised fraction of the ideal for each strategy, and the plain model's decoding step against a reduced one's."""
    config = Qwen2Config(
        vocab_size=64, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=2048,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config).eval().requires_grad_(False).to(dtype)
    prompt = make_prompt(model, TOKENS, TEXT, 1)
    strategies = {"plain": None, "nothing": fastadasp.load_strategy("weighted", budget="ratio=0.0001")}
    strategies |= {n: fastadasp.load_strategy(n, budget="flops=0.5") for n in ("weighted", "fastadasp-dense")}
    ideal = {name: _ideal(model, prompt, strategy) for name, strategy in strategies.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in strategies}
    for turn in range(7):
        for place in range(len(times)):
            name = list(times)[(place + turn) % len(times)]
            times[name].append(_run(model, prompt, strategies[name]))
    prefill = {name: median(t for t, _ in runs[1:]) for name, runs in times.items()}
    step = {name: median(t for _, t in runs[1:]) for name, runs in times.items()}
    return {n: prefill["plain"] / prefill[n] / ideal[n] for n in prefill}, step["plain"] / step["fastadasp-dense"]


def _ideal(model: Any, prompt: Prompt, strategy: fastadasp.Strategy | None) -> float:
    if strategy is None or strategy.budget.kind == "ratio":
        return 1.0
    solved = strategy.solve(DecoderShape.of(model.config), prompt.text, [prompt.audio], nearest=True)
    return 1 / (1 - solved.flops_removed)


@torch.inference_mode()
def _run(model: Any, prompt: Prompt, strategy: fastadasp.Strategy | None) -> tuple[float, float]:
    """Seconds of a prefill, and of a decoding step."""
    with applied(strategy, model, prompt):
        begin = perf_counter()
        cache = cache_of(model(inputs_embeds=prompt.embeds, use_cache=True, logits_to_keep=1))
        read = perf_counter() - begin
        steps = []
        for _ in range(8):
            begin = perf_counter()
            model(input_ids=torch.tensor([[5]]), **cache_argument(cache), use_cache=True)
            steps.append(perf_counter() - begin)
    return read, median(steps)


@pytest.mark.parametrize(
    "measure",
    [
        "plan + merge against one loop",
        "plan + merge against one loop, bfloat16",
        "scores in bfloat16 against float32",
        "whole reduction against matrix and loop",
        "realised fraction, single shot",
        "realised fraction, constant schedule",
        "realised fraction, single shot, bfloat16",
        "realised fraction, constant schedule, bfloat16",
        "plain model against nothing removed, prefill",
        "plain model against half removed, decoding step",
    ],
)
def test_speed(
    figures: dict[str, tuple[float, float, float]], measure: str, record_property: Callable[[str, object], None]
) -> None:
    if "bfloat16" in measure and "merge" not in measure and not cpu.multiplies(torch.bfloat16):
        pytest.skip("this processor has no products in bfloat16")
    value, least, goal = figures[measure]
    record_property(SPEED, f"{measure:<50} {value:>7.2f} {least:>7.2f} {goal:>7.2f}")
    assert value >= least
