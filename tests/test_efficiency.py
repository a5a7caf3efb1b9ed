"""Analytic costs against torch's own counter."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2Model

import fastadasp
from fastadasp.counts.schedule import layer_ratios, survivors_by_layer
from fastadasp.inference.costs import DecoderShape, sample_costs
from fastadasp.upstream.names import cache_of


@pytest.fixture(scope="module")
def model() -> Qwen2Model:
    config = Qwen2Config(
        vocab_size=32,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",  # the counter does not know the fused kernel of CPUs
    )
    return Qwen2Model(config).eval()


@pytest.mark.parametrize("name", [None, "weighted", "prune", "fastadasp-dense"])
@torch.no_grad()
def test_prefill_flops_match_the_counter(model: Qwen2Model, name: str | None) -> None:
    embeds = torch.randn(1, 60, 64)
    spans = torch.zeros(1, 60, dtype=torch.int64)
    spans[:, 4:54] = 1
    shape = DecoderShape.of(model.config)
    layers = []
    if name is None:
        with FlopCounterMode(display=False) as counter:
            model(inputs_embeds=embeds)
    else:
        # a scorer's own work is not the model's: keys' cosines only, so that nothing is counted but the model
        strategy = fastadasp.load_strategy(name, budget=0.5, **{"layers.layer": 1})
        strategy = strategy.replace(**({"select": "uniform"} if name == "prune" else {"weight": "uniform"}))
        with strategy.apply(model, spans=spans) as trace, FlopCounterMode(display=False) as counter:
            model(inputs_embeds=embeds)
        layers = trace.layers
    (cost,) = sample_costs(shape, layers, [50], [60], 4)
    # biases, norms and softmax are no matrix products; rotary embeddings are one, of outer products
    rotary = 2 * 60 * shape.head_dim // 2
    assert counter.get_total_flops() == pytest.approx(cost.flops, abs=4 * rotary)
    assert (cost.flops < cost.flops_full) is (name is not None)


@torch.no_grad()
def test_kv_bytes_are_those_of_the_cache(model: Qwen2Model) -> None:
    spans = torch.zeros(1, 60, dtype=torch.int64)
    spans[:, 4:54] = 1
    with fastadasp.load_strategy("weighted", budget=0.6).apply(model, spans=spans) as trace:
        cache = cache_of(model(inputs_embeds=torch.randn(1, 60, 64), use_cache=True))
    held = sum(x.keys.nbytes + x.values.nbytes for x in cache.layers)
    (cost,) = sample_costs(DecoderShape.of(model.config), trace.layers, [50], [60], 4)
    assert cost.kv_bytes == held
    assert cost.audio_tokens_left == 20


def test_paper_ratios_give_the_paper_budgets() -> None:
    """At the paper's sizes (32 layers, d 4096, FFN 11008, 750 audio and 50 text tokens, start layer 2)."""
    shape = DecoderShape(layers=32, hidden=4096, heads=32, kv_heads=32, head_dim=128, mlp=11008)

    def removed(schedule: str, ratio: float) -> tuple[float, float]:
        strategy = fastadasp.load_strategy("weighted", ratio=ratio, **{"schedule.name": schedule, "layers.layer": 2})
        counts = (750, *survivors_by_layer(strategy, layer_ratios(strategy, 32), 750))
        path = [(entered + 50, left + 50) for entered, left in pairwise(counts)]
        return 1 - shape.prefill_flops(path) / shape.prefill_flops([(800, 800)] * 32), counts[-1] / 750

    for schedule, ratios in {
        "constant": (0.0085, 0.018, 0.029, 0.044, 0.064),
        "decay": (0.013, 0.027, 0.043, 0.063, 0.088),
        "single-shot": (0.113, 0.225, 0.339, 0.453, 0.568),
    }.items():
        for goal, ratio in zip((0.1, 0.2, 0.3, 0.4, 0.5), ratios, strict=True):
            assert removed(schedule, ratio)[0] == pytest.approx(goal, abs=0.005)
    assert removed("constant", 0.064)[1] == pytest.approx(0.15, abs=0.005)
    assert removed("decay", 0.088)[1] == pytest.approx(0.27, abs=0.005)
