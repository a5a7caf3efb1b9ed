"""What strategies compute themselves, counted beforehand and by torch's own counter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2Model

import fastadasp
from fastadasp.counts.shape import DecoderShape
from fastadasp.engine.encoder import EncoderSeen
from fastadasp.inference.costs import SampleCost, sample_costs
from fastadasp.inference.runner import efficiency
from fastadasp.strategy import get_registry

AUDIO, PROMPT = 250, 280
WIDTH = 64
ENCODER_WIDTH = 8


@pytest.fixture(scope="module")
def model() -> Qwen2Model:
    config = Qwen2Config(
        vocab_size=32,
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",  # the counter does not know the fused kernel of CPUs
    )
    return Qwen2Model(config).eval()


def encoder() -> tuple[EncoderSeen, int]:
    """What an encoder of 4 heads attended to in 2 frames a token and an odd one, and what torch counts of it."""
    drawn = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 4, 2 * AUDIO + 1, ENCODER_WIDTH, generator=drawn) for _ in range(2))
    with FlopCounterMode(display=False) as counter:
        seen = EncoderSeen.of(query, key, 0.1, None, 2)
    return seen, counter.get_total_flops()


def run(model: Qwen2Model, name: str, seen: EncoderSeen | None = None, **changes: Any) -> tuple[SampleCost, int]:
    """What a strategy costs by our count, and all matrix products of the pass by torch's."""
    embeds = torch.randn(1, PROMPT, WIDTH, generator=torch.Generator().manual_seed(0))
    spans = torch.zeros(1, PROMPT, dtype=torch.int64)
    spans[:, 10 : 10 + AUDIO] = 1
    strategy = fastadasp.load_strategy(name, **{"budget": 0.5, "layers.layer": 1, **changes})
    applied = strategy.apply(model, spans=spans, encoder=seen)
    with torch.no_grad(), applied as trace, FlopCounterMode(display=False) as counter:
        model(inputs_embeds=embeds)
    shape = DecoderShape.of(model.config)
    (cost,) = sample_costs(shape, trace.layers, [AUDIO], [PROMPT], 4, strategy, seen)
    return cost, counter.get_total_flops()


ROTARY = 4 * 2 * PROMPT * 16
"""FLOPs of rotary embeddings at most, which are outer products that the counter sees; all else is a thousand times
that."""
MEANS = 2 * 2 * PROMPT * WIDTH
"""FLOPs of a merge's means, which are no matrix product."""
NEXT = 2 * (2 * PROMPT - 1) * 32
"""FLOPs of the cosines of neighbouring keys, which are none either."""
NORMS = 2 * AUDIO * WIDTH
"""FLOPs of the norms of all audio tokens."""

CASES: dict[str, Callable[[], int]] = {
    "prune": lambda: 0,
    "weighted": lambda: MEANS + NEXT,
    "random": lambda: MEANS,
    "fastv": lambda: 0,
    "headrouter": lambda: 0,
    "divprune": lambda: 2 * NORMS,
    "segment-topk": lambda: 0,
    "sparsevlm": lambda: 0,
    "visionzip": lambda: MEANS + 2 * AUDIO * 32,
    "h2o": lambda: 0,
    "random-prune": lambda: 0,
    "uniform": lambda: 0,
    "average-pool": lambda: MEANS,
    "dart": lambda: NORMS + 2 * 4 * AUDIO * WIDTH + 2 * AUDIO * 32,
}
"""What of a strategy's own work torch's counter does not see: sums that are no matrix products."""


@pytest.mark.parametrize("name", CASES)
def test_own_work_is_what_the_counter_sees(model: Qwen2Model, name: str) -> None:
    cost, counted = run(model, name)
    assert cost.own_flops is not None
    assert counted == pytest.approx(cost.flops + cost.own_flops - CASES[name](), abs=ROTARY)


@pytest.mark.parametrize(
    ("name", "unseen"),
    [
        ("segment-topk-encoder", 0),
        ("visionzip-encoder", MEANS + 2 * AUDIO * ENCODER_WIDTH),
        ("vispruner", NORMS),
    ],
)
def test_what_is_read_of_the_encoder_counts_once(model: Qwen2Model, name: str, unseen: int) -> None:
    """It is computed as the encoder runs, which it did before the pass that is counted here."""
    seen, read = encoder()
    assert read == 2 * int(seen.products)
    cost, counted = run(model, name, seen, **{"layers.layer": 0})
    assert cost.own_flops is not None
    assert counted == pytest.approx(cost.flops + cost.own_flops - read - unseen, abs=ROTARY)


def test_two_scorers_read_the_encoder_once(model: Qwen2Model) -> None:
    seen, read = encoder()
    two, _ = run(model, "sa-map-encoder", seen, **{"layers.layer": 0})
    one, _ = run(model, "sa-map-encoder", seen, **{"layers.layer": 0, "weight": "uniform"})
    assert one.own_flops is not None
    assert two.own_flops == one.own_flops > read
    unknown, _ = run(model, "random", **{"layers.layer": 0})
    assert unknown.own_flops is not None  # nothing of the encoder is known, and nothing was read


@pytest.mark.parametrize("changes", [{"queries": 0.25}, {"queries": 0.3, "which": "last"}, {"layers": 2}])
def test_cheaper_scores_cost_less(model: Qwen2Model, changes: dict[str, Any]) -> None:
    exact, _ = run(model, "attention-prune", schedule="constant")
    cheap, counted = run(
        model, "attention-prune", schedule="constant", **{f"select.{k}": v for k, v in changes.items()}
    )
    assert cheap.own_flops is not None
    assert exact.own_flops is not None
    assert 0 < cheap.own_flops < exact.own_flops
    assert counted == pytest.approx(cheap.flops + cheap.own_flops, abs=ROTARY)


def test_a_second_stage_costs_too(model: Qwen2Model) -> None:
    one, _ = run(model, "weighted")
    two, counted = run(model, "weighted+h2o")
    assert one.own_flops is not None
    assert two.own_flops is not None
    assert two.flops == one.flops
    assert two.own_flops > one.own_flops
    assert counted == pytest.approx(two.flops + two.own_flops - MEANS - NEXT, abs=ROTARY)


def test_what_a_component_does_not_state_is_not_guessed(model: Qwen2Model) -> None:
    class Silent(fastadasp.Scorer):
        name = "silent"
        gives = ("importance",)

        def importance(self, layer: fastadasp.LayerView) -> torch.Tensor:
            return layer.hidden.norm(dim=-1)

    cost, _ = run(model, "random-prune", select=Silent())
    assert cost.own_flops is None
    spent = efficiency([cost], [0.1], [0.1], [1], 1, 1e9)
    assert (spent.own_flops, spent.flops_removed_net, spent.flops_removed_net_with_encoder) == (None, None, None)
    assert spent.flops_removed > 0


def test_net_figures_follow(model: Qwen2Model) -> None:
    cost, _ = run(model, "h2o")
    spent = efficiency([cost], [0.1], [0.1], [1], 1, 1e8)
    assert spent.flops_removed == 0
    assert cost.own_flops is not None
    assert spent.flops_removed_net == pytest.approx(-cost.own_flops / cost.flops_full)
    assert spent.flops_removed_net_with_encoder == pytest.approx(-cost.own_flops / (cost.flops_full + 1e8))


def test_built_in_components_state_their_cost() -> None:
    sizes = {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "encoder_width": 16}
    work = fastadasp.Workload(tokens=50, removed=25, prompt=60, **sizes)
    for kind in ("scorer", "merger"):
        for entry in get_registry().entries(kind):
            if entry.origin.distribution == "fastadasp":
                counted = entry.value().multiply_adds(work)
                assert counted is not None, entry.name
                assert counted >= 0
