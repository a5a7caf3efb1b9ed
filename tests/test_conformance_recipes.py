"""Checks of schedules, layer selectors, strategies and tasks: what breaks its contract is told."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch
from conformance_cases import Norm, refuses

import fastadasp
from fastadasp import (
    CalibratedSelector,
    Example,
    LayerChoice,
    LayerSelector,
    Schedule,
    Strategy,
    StrategyError,
    Task,
    testing,
)
from fastadasp.testing.model import small_decoder
from fastadasp.testing.parts import PlainMerger, PlainSchedule, PlainScorer, PlainSelector, plain_strategy

# ---- schedules ----

RATIOS: dict[str, tuple[Any, str]] = {
    "a list": (lambda r, s, n: [r if i == s else 0.0 for i in range(n)], "a tuple of plain floats"),
    "numbers of numpy": (lambda r, s, n: tuple(np.float64(r) if i == s else 0.0 for i in range(n)), "a tuple of plain"),
    "one too few": (lambda r, s, n: (r,) * (n - 1), "fractions, one a layer"),
    "everything": (lambda r, s, n: tuple(2 * r if i == s else 0.0 for i in range(n)), "fractions in [0, 1)"),
    "too early": (lambda r, s, n: (r,) * n, "0 before the start layer 1"),
    "falling": (
        lambda r, s, n: tuple(0.9 - r if i == s and r < 0.9 else 0.0 for i in range(n)),
        "do not fall as the ratio",
    ),
    "chance": (lambda r, s, n: tuple(random.random() if i == s else 0.0 for i in range(n)), "the same every time"),
    "nothing": (lambda r, s, n: (0.0,) * n, "a ratio for at least one of them"),
    "an error": (lambda r, s, n: tuple(r / (n - 1 - s) for _ in range(n)), "fractions"),
}


@pytest.mark.parametrize("case", RATIOS)
def test_a_schedule_that_breaks_its_contract(case: str) -> None:
    ratios, said = RATIOS[case]

    class Broken(Schedule):
        name = "broken"

        def ratios(self, ratio: float, start: int, num_layers: int) -> Any:
            return ratios(ratio, start, num_layers)

    refuses(testing.check_schedule, Broken, "schedule 'broken'", said)


# ---- layer selectors ----

LAYERS: dict[str, tuple[Any, str]] = {
    "beyond the last": (lambda n: n, "an int from 0 to 0"),
    "from the end": (lambda n: -1, "an int from 0 to 0"),
    "a float": (lambda n: n / 2, "0.5 (float)"),
    "a number of numpy": (lambda n: np.int64(0), "(int64)"),
    "another error": (lambda n: [][n], "IndexError: list index out of range"),
    "chance": (lambda n: random.randrange(n), "the same every time"),
}


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_selector_that_breaks_its_contract(case: str) -> None:
    layer, said = LAYERS[case]

    class Broken(LayerSelector):
        name = "broken"

        def start_layer(self, num_layers: int) -> Any:
            return layer(num_layers)

    refuses(testing.check_layer_selector, Broken, "layer-selector 'broken'", said)


def test_a_layer_selector_that_fits_no_model() -> None:
    class Nowhere(LayerSelector):
        name = "nowhere"

        def start_layer(self, num_layers: int) -> int:
            raise StrategyError("too shallow")

    refuses(testing.check_layer_selector, Nowhere, "all refused: too shallow", "a layer for some of them")


class Deepest(CalibratedSelector):
    name = "deepest"

    def choose(self, calibration: Any) -> Any:
        return LayerChoice.least({layer: -float(layer) for layer in calibration.candidates})


CHOICES: dict[str, tuple[Any, str]] = {
    "no choice": (lambda c: 3, "a LayerChoice"),
    "not a candidate": (lambda c: LayerChoice.least({99: 0.0}), "a loss for every candidate"),
    "losses that are not finite": (
        lambda c: LayerChoice.least({layer: float("inf") for layer in c.candidates}),
        "losses that are finite",
    ),
    "chance": (
        lambda c: LayerChoice.least({layer: random.random() for layer in c.candidates}),
        "the same choice every time",
    ),
    "an error": (lambda c: c.features(99).nothing, "a LayerChoice"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_a_calibrated_selector_that_breaks_its_contract(case: str) -> None:
    testing.check_layer_selector(Deepest)
    choose, said = CHOICES[case]

    class Broken(Deepest):
        def choose(self, calibration: Any) -> Any:
            return choose(calibration)

    refuses(testing.check_layer_selector, Broken, "choose(calibration)", said)


def test_a_calibrated_selector_that_guesses_or_does_not_listen() -> None:
    guesses = type("Guesses", (Deepest,), {"start_layer": lambda self, num_layers: 0})
    refuses(testing.check_layer_selector, guesses, "before a layer was chosen", "a StrategyError")

    class Deaf(Deepest):
        def start_layer(self, num_layers: int) -> int:
            super().start_layer(num_layers)
            return 0

    refuses(testing.check_layer_selector, Deaf, "with layer = 1", "the layer that was chosen")


# ---- strategies ----


def recipe(**parts: Any) -> Strategy:
    usual = {"select": PlainScorer(), "merger": PlainMerger(), "schedule": PlainSchedule(), "layers": PlainSelector()}
    return Strategy(**({"name": "broken", **usual} | parts))


class Chancy(PlainScorer):
    def importance(self, layer: Any) -> Any:
        return torch.rand_like(layer.valid, dtype=torch.float32)


class Company(PlainScorer):
    def importance(self, layer: Any) -> Any:
        scores = super().importance(layer)
        return scores if len(scores) == 1 else -scores


class Secret(PlainScorer):
    def importance(self, layer: Any) -> Any:
        return layer.noise()


class Pretending(PlainScorer):
    seeded: ClassVar[bool] = True


class Meddling(PlainScorer):
    """Changes the model that the check runs in."""

    def importance(self, layer: Any) -> Any:
        small_decoder(8).get_output_embeddings().weight[0] += 1e-3
        return super().importance(layer)


class Greedy(PlainMerger):
    """Takes one token more than asked for."""

    def plan(self, layer: Any, select: Any, weight: Any, remove: Any) -> Any:
        return super().plan(layer, select, weight, (remove + 1).minimum(layer.valid.sum(1) - 1))


STRATEGIES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "torch's generator": ({"select": Chancy()}, ("twice, under two states", "the same every time")),
    "company": ({"select": Company()}, ("alone and in a batch padded on the left", "logits")),
    "a secret seed": ({"select": Secret()}, ("the seeds 0 and 1", "no component says seeded")),
    "a seed without effect": ({"select": Pretending()}, ("the seeds 0 and 1", "a component says seeded = True")),
    "another count": ({"merger": Greedy()}, ("the audio went to", "are reported", "equally many")),
    "nothing at all": ({"budget": 0.001}, ("no token removed", "a shorter sequence")),
}


@pytest.mark.parametrize("case", STRATEGIES)
def test_a_strategy_that_does_not_work(case: str) -> None:
    parts, said = STRATEGIES[case]
    refuses(testing.check_strategy, recipe(**parts), "strategy 'broken' (budget 0.", *said)


def test_a_strategy_that_changes_the_model() -> None:
    weight = small_decoder(8).get_output_embeddings().weight
    before = weight.clone()
    try:
        with torch.no_grad():
            refuses(testing.check_strategy, recipe(select=Meddling()), "the same every time")
    finally:
        with torch.no_grad():
            weight.copy_(before)
    testing.check_strategy(plain_strategy())


# ---- tasks ----


class Spoken(Task):
    """A sound task over two recordings."""

    name = "spoken"
    kind = "dense"
    metric = "right"
    higher_is_better = True
    max_new_tokens = 4

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("a", "b"):
            soundfile.write(folder / f"{name}.wav", np.linspace(-0.1, 0.1, 800, dtype=np.float32), 16000)

    def examples(self, limit: int | None = None) -> list[Example]:
        return [Example(name, self.folder / f"{name}.wav", "say", name) for name in ("a", "b")][:limit]

    def score(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"right": 50.0 * sum(p == r for p, r in zip(predictions, references, strict=True))}


TASKS: dict[str, tuple[dict[str, Any], str]] = {
    "a name with a space": ({"name": "spoken words"}, "a name in lower case"),
    "another kind": ({"kind": "thick"}, "one of 'dense', 'sparse'"),
    "no tokens": ({"max_new_tokens": 0}, "a whole number above 0"),
    "no clips": ({"examples": lambda self, limit=None: []}, "at least one"),
    "ids that repeat": ({"examples": lambda self, limit=None: (Spoken.examples(self) * 2)[:limit]}, "unique ids"),
    "another order": (
        {"examples": lambda self, limit=None: random.sample([Example(str(i), Path(), "", "") for i in range(50)], 50)},
        "the same every time",
    ),
    "no limit": (
        {"examples": lambda self, limit=None: Spoken.examples(self)[: 2 if limit is None else 1]},
        "the first 3 of all",
    ),
    "no recording": ({"examples": lambda self, limit=None: [Example("c", Path("c.wav"), "say", "c")]}, "can be read"),
    "no headline": ({"metric": "wrong"}, "the headline metric 'wrong'"),
    "not a number": ({"score": lambda self, p, r: {"right": float("nan")}}, "finite numbers"),
    "upside down": ({"higher_is_better": False}, "a better score for the references"),
    "an error for empty answers": (
        {"score": lambda self, p, r: {"right": 1.0 * len(p[0]) / len(p[0])}},
        "ZeroDivisionError",
    ),
}


@pytest.mark.parametrize("case", TASKS)
def test_a_task_that_breaks_its_contract(case: str, tmp_path: Path) -> None:
    testing.check_task(Spoken(tmp_path))
    attributes, said = TASKS[case]
    refuses(testing.check_task, type("Broken", (Spoken,), attributes)(tmp_path), "task '", said)


def test_names_of_what_is_not_installed() -> None:
    with pytest.raises(fastadasp.UnknownNameError, match="Did you mean 'random'"):
        testing.check_scorer("randon")
    with pytest.raises(testing.ConformanceError, match="is not a Task object"):
        testing.check_task(3)  # type: ignore[arg-type]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_waiting_is_noticed_on_a_gpu() -> None:
    class Waiting(Norm):
        def importance(self, layer: Any) -> Any:
            scores = super().importance(layer)
            return scores / scores.max().item()

    refuses(testing.check_scorer, Waiting, "nothing that waits for the device")
