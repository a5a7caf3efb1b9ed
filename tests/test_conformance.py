"""The conformance suite: everything built in passes it, and the checks of scorers find what breaks them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance_cases import Norm, refuses

import fastadasp
from fastadasp import (
    Scorer,
    testing,
)
from fastadasp.demo import data_path
from fastadasp.testing.model import small_decoder

CHECKS = {
    "scorer": testing.check_scorer,
    "merger": testing.check_merger,
    "schedule": testing.check_schedule,
    "layer-selector": testing.check_layer_selector,
    "strategy": testing.check_strategy,
    "task": testing.check_task,
}
BUILT_IN = [
    (entry.kind, entry.name)
    for entry in fastadasp.get_registry().entries()
    if entry.kind in CHECKS
    and entry.origin.distribution == "fastadasp"
    and not (entry.kind == "task" and entry.value.source)
]
"""Without tasks of public benchmarks, which `test_packs.py` checks on rows of their datasets."""


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_what_is_built_in_keeps_its_contract(kind: str, name: str, tmp_path: Path) -> None:
    made = fastadasp.get_registry().get(kind, name)
    if isinstance(made, fastadasp.ManifestTask) and made.manifest is None:  # it is given its clips
        sounds = sorted(data_path().glob("audio/number-*.ogg"))[:4]
        answers = ("yes, that is so", "no, it is not so", "yes, that is so")
        rows = [f'{a},{b},"{answer}",Who?' for a, b, answer in zip(sounds, sounds[1:], answers, strict=False)]
        (tmp_path / "clips.csv").write_text("\n".join(["audio,second,reference,question", *rows]))
        testing.check_task(made.over(tmp_path / "clips.csv"))
    else:
        CHECKS[kind](name)


VARIANTS = [
    ("scorer", "key-norm", {"order": 1}),
    ("scorer", "window-similarity", {"window": 3, "of": "keys"}),
    ("merger", "pairs", {"overlap": "skip"}),
    ("merger", "segment-topk", {"segments": 4, "share": "softmax"}),
    ("merger", "sa-map", {"threshold": -1.0, "longest": 5}),
    ("merger", "dart", {"pivots": 1}),
]


@pytest.mark.parametrize(("kind", "name", "parameters"), VARIANTS)
def test_other_parameters_keep_the_contract_too(kind: str, name: str, parameters: dict[str, Any]) -> None:
    CHECKS[kind](fastadasp.get_registry().get(kind, name)(**parameters))


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "compact"},
        {"site": "input"},
        {"budget": "ratio=0.2", "schedule": "constant"},
        {"budget": "kv=0.2"},
        {"budget": "flops=0.2", "merger": {"name": "pairs", "overlap": "skip"}},
    ],
)
def test_strategies_pass_in_other_places_and_under_other_budgets(changes: dict[str, Any]) -> None:
    testing.check_strategy(fastadasp.load_strategy("weighted", **changes))


def test_a_strategy_is_checked_in_a_model_of_ones_own_and_at_its_depth() -> None:
    testing.check_strategy("weighted", model=small_decoder(3))
    late = fastadasp.load_strategy("weighted", layers={"layer": 9})
    refuses(testing.check_strategy, late, "StrategyError: start layer 9 does not exist", "num_layers=")
    testing.check_strategy(late, num_layers=10)


def test_a_sound_scorer_passes() -> None:
    testing.check_scorer(Norm)
    testing.check_scorer(Norm())


SCORERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "one score too few": (lambda s, x: s[:, 1:], ("shape (5, 22)", "shape (5, 23), one for each token")),
    "a number each clip": (lambda s, x: s.mean(1), ("shape (5,)",)),
    "ranks": (lambda s, x: s.argsort(1), ("int64", "floating point scores")),
    "a list": (lambda s, x: [1.0], ("[1.0] (list)", "floating point scores")),
    "not finite": (lambda s, x: s / 0, ("not finite", "finite scores")),
    "an error": (lambda s, x: s / [], ("TypeError: unsupported operand", "no error")),
    "no clip of one token": (lambda s, x: s - s.topk(2, dim=1).values[:, 1:], ("selected index k out of range",)),
    "item": (lambda s, x: s + 0 * s.max().item(), ("asked for values (aten._local_scalar_dense", ".item()")),
    "a condition": (lambda s, x: s if bool(s.sum() > 0) else s + 1, ("asked for values",)),
    "tolist": (lambda s, x: s * x.tokens.__class__([1.0 for _ in s.tolist()])[0], ("asked for values",)),
    "numpy": (lambda s, x: torch.from_numpy(s.numpy()), ("asked for values (.numpy()",)),
    "a mask as an index": (lambda s, x: s + 0 * s[x.valid].sum(), ("asked for values (aten.nonzero",)),
    "torch's generator": (lambda s, x: torch.rand_like(s), ("global generator was drawn from", "layer.noise()")),
    "python's generator": (lambda s, x: s + random.random(), ("other scores when called again", "layer.noise()")),
    "other clips": (lambda s, x: s / s.masked_fill(~x.valid, 0).amax(), ("alone and in a batch", "in any company")),
    "the whole batch": (lambda s, x: s + x.states.float().mean(), ("alone and in a batch", "in any company")),
    "padding": (
        lambda s, x: s + x.states.float().sum((1, 2))[x.spans.sample].unsqueeze(1),
        ("large numbers in the padding", "padding has no influence"),
    ),
    "place in the batch": (lambda s, x: s + x.spans.start.unsqueeze(1), ("alone and in a batch padded on the left",)),
    "changes what it sees": (
        lambda s, x: s + x.states.mul_(2).sum() * 0,
        ("states was changed", "nothing that is shown"),
    ),
    "a secret seed": (lambda s, x: s + x.noise(), ("seed 0 and 1", "does not say seeded")),
    "keys": (lambda s, x: x.keys.float().flatten(2).norm(dim=-1), ("before the first layer", "'attention' among its")),
    "text": (lambda s, x: s + x.text()[0][:, :1, 0], ("prompts of audio alone", "'text' among")),
    "every pair": (
        lambda s, x: s + 0 * (s.unsqueeze(1) * s.unsqueeze(2)).sum(1),
        ("aten.mul.Tensor made a tensor of",),
    ),
    "another device": (
        lambda s, x: s * torch.arange(s.shape[1]),
        ("aten.mul.Tensor of tensors on the CPU and the device", "device=layer.valid.device"),
    ),
    "a way over the host": (lambda s, x: s.cpu().to(s.device), ("a copy from the device to the CPU",)),
    "numbers of the host": (
        lambda s, x: s * torch.tensor([1.0]).to(s.device),
        ("a copy from the CPU to the device",),
    ),
}


@pytest.mark.parametrize("case", SCORERS)
def test_a_scorer_that_breaks_its_contract(case: str) -> None:
    change, said = SCORERS[case]

    class Broken(Norm):
        def importance(self, layer: Any) -> Any:
            return change(super().importance(layer), layer)

    refuses(testing.check_scorer, Broken, "scorer 'norm'", *said)


@torch.library.custom_op("fastadasp_tests::double", mutates_args=(), schema="(Tensor x) -> Tensor")
def double(x: Any) -> Any:
    """An operation as an extension brings it, without a form for tensors that have no content."""
    return 2 * x


def test_operations_of_extensions_are_let_through() -> None:
    class Extended(Norm):
        def importance(self, layer: Any) -> Any:
            return double(super().importance(layer))

    testing.check_scorer(Extended)


def test_a_scorer_of_pairs_with_a_score_too_many() -> None:
    class Pairs(Scorer):
        name = "pairs-of"
        gives = ("affinity",)

        def affinity(self, layer: Any) -> Any:
            return layer.hidden.float().norm(dim=-1)

    refuses(testing.check_scorer, Pairs, "affinity(layer)", "shape (5, 23)", "shape (5, 22), one for each pair")


def test_scorers_whose_class_is_wrong() -> None:
    seeded = type("Seeded", (Norm,), {"seeded": True})
    refuses(testing.check_scorer, seeded, "the same scores", "since the class says seeded = True")
    refuses(testing.check_scorer, type("Nameless", (Norm,), {"name": "No Name"}), "lower-case letters")
    refuses(testing.check_scorer, type("Silent", (Norm,), {"gives": ()}), "must set `gives`")

    class Demanding(Norm):
        power: float

    refuses(testing.check_scorer, Demanding, "power", "parameters with defaults; without them, give an object")
    testing.check_scorer(Demanding(power=2.0))

    class Forgetful(Norm):
        power: float = 1.0

        def parameters(self) -> dict[str, Any]:
            return {}

    refuses(testing.check_scorer, Forgetful(power=3.0), "written to TOML and read back", "Forgetful(power=1.0)")

    class Heads(Norm):
        needs = frozenset({"attention"})

        def importance(self, layer: Any) -> Any:
            return layer.keys.unflatten(2, (2, -1)).float().flatten(2).norm(dim=-1)

    refuses(testing.check_scorer, Heads, "importance(layer) of each key/value head")
