"""fastadasp's conformance checks, and what each method promises beyond them."""

from __future__ import annotations

import pytest
import torch
from fastadasp_example.at_depth import AtDepth
from fastadasp_example.energy import Energy
from fastadasp_example.fuse import Fuse
from fastadasp_example.stages import Stages

from fastadasp import testing


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_energy_is_a_scorer(alpha: float) -> None:
    testing.check_scorer(Energy(alpha=alpha))


def test_fuse_is_a_merger() -> None:
    testing.check_merger(Fuse)


@pytest.mark.parametrize("stages", [1, 3, 50])
def test_stages_is_a_schedule(stages: int) -> None:
    testing.check_schedule(Stages(stages=stages))


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.999])
def test_at_depth_is_a_layer_selector(depth: float) -> None:
    testing.check_layer_selector(AtDepth(depth=depth))


def test_pyramid_fuse_is_a_strategy() -> None:
    testing.check_strategy("pyramid-fuse")


def test_arousal_is_a_task() -> None:
    testing.check_task("arousal")


def test_energy_against_its_formula() -> None:
    layer = testing.view_of((testing.Prompt((3, 2), (9,), 1), testing.Prompt((2,), (4,), 2)))
    ours = Energy().importance(layer)
    margin = 0.9 * (1 - layer.layer_index / layer.num_layers)
    for row, tokens in enumerate(layer.tokens):
        keys = layer.keys[row, :tokens].flatten(1)
        for j in range(tokens):
            cosines = [float(torch.cosine_similarity(keys[i], keys[j], dim=0)) for i in range(tokens)]
            shaped = [x if x >= margin else torch.expm1(torch.tensor(x - margin)).item() for x in cosines]
            assert float(ours[row, j]) == pytest.approx(-sum(shaped) / tokens, abs=1e-5)


def test_fuse_makes_one_of_the_least_important() -> None:
    layer = testing.view_of((testing.Prompt((2, 2), (6,), 1),), remove=[2])
    select = torch.tensor([[0.5, 0.1, 0.9, 0.2, 0.3, 0.8]])
    assert Fuse().plan(layer, select, None, layer.remove).cluster.tolist() == [[0, 1, 2, 1, 1, 3]]


def test_stages_by_hand() -> None:
    assert [i for i, r in enumerate(Stages().ratios(0.3, 2, 11)) if r] == [2, 5, 8]
    assert Stages(stages=9).ratios(0.3, 2, 4) == (0.0, 0.0, 0.3, 0.3)


def test_at_depth_by_hand() -> None:
    assert [AtDepth().start_layer(n) for n in (1, 4, 32)] == [0, 1, 8]
