"""The conformance suite: everything built in passes it, and each of its checks finds a component that breaks it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch

import fastadasp
from fastadasp import (
    CalibratedSelector,
    Example,
    LayerChoice,
    LayerSelector,
    Merger,
    Schedule,
    Scorer,
    Strategy,
    StrategyError,
    Task,
    TokenPlan,
    testing,
)
from fastadasp.demo import data_path
from fastadasp.ops import clusters_from_joins, clusters_from_kept, largest, smallest
from fastadasp.testing.model import small_decoder
from fastadasp.testing.parts import PlainMerger, PlainSchedule, PlainScorer, PlainSelector, plain_strategy

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


def refuses(check: Any, component: Any, *said: str) -> None:
    """The check fails, with these words in its message and the form that all messages have."""
    with pytest.raises(testing.ConformanceError) as caught:
        check(component)
    message = str(caught.value)
    assert isinstance(caught.value, AssertionError)
    for words in ("does not keep its contract\n  done:     ", "\n  came out: ", "\n  expected: ", *said):
        assert words in message, message


# ---- scorers ----


class Norm(Scorer):
    """A sound scorer; what follows differs from it in one respect each."""

    name = "norm"
    gives = ("importance",)

    def importance(self, layer: Any) -> Any:
        return layer.hidden.float().norm(dim=-1)


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


# ---- mergers ----


class Drop(Merger):
    """A sound merger."""

    name = "dropping"
    reads = "importance"
    uses_weight = False
    sites = ("input", "block", "cache")

    def capacity(self, tokens: int) -> int:
        return max(tokens - 1, 0)

    def kept(self, layer: Any, select: Any, remove: Any) -> Any:
        return layer.valid & ~smallest(select, remove)

    def plan(self, layer: Any, select: Any, weight: Any, remove: Any) -> Any:
        return TokenPlan(clusters_from_kept(self.kept(layer, select, remove)), merges=False)


class Join(Merger):
    """A sound merger of neighbours."""

    name = "joining"
    reads = "affinity"
    needs = frozenset({"order"})

    def capacity(self, tokens: int) -> int:
        return max(tokens - 1, 0)

    def plan(self, layer: Any, select: Any, weight: Any, remove: Any) -> Any:
        return TokenPlan(clusters_from_joins(largest(select, remove), layer.valid), weight)


def test_sound_mergers_pass() -> None:
    testing.check_merger(Drop)
    testing.check_merger(Join())


def threshold(layer: Any, select: Any, remove: Any) -> Any:
    """Pruning by a threshold: too many or too few go where scores are equal."""
    ordered = select.masked_fill(~layer.valid, float("inf")).sort(1).values
    return layer.valid & (select >= ordered.gather(1, remove.clamp_max(select.shape[1] - 1).unsqueeze(1)))


def across(layer: Any, select: Any, remove: Any) -> Any:
    """The budget of the whole batch, spent on the tokens that are worth least in it."""
    flat = smallest(select.flatten().unsqueeze(0), remove.sum().unsqueeze(0)).view_as(select)
    return layer.valid & ~flat


KEPT: dict[str, tuple[Any, tuple[str, ...]]] = {
    "one too many": (
        lambda d, x, s, k: x.valid & ~smallest(s, k + 1),
        ("22 of 23 tokens left", "23 tokens left, as asked"),
    ),
    "equal scores": (lambda d, x, s, k: threshold(x, s, k), ("equal importance", "as asked")),
    "one budget for all clips": (lambda d, x, s, k: across(x, s, k), ("tokens left",)),
    "padding": (lambda d, x, s, k: d | ~x.valid, ("clusters in the padding", "-1 for every padding entry")),
    "item": (lambda d, x, s, k: d & (s <= s[x.valid].max()), ("asked for values",)),
    "a loop that reads counts": (
        lambda d, x, s, k: torch.stack([r for r, n in zip(d, k.tolist(), strict=True)]),
        ("asked",),
    ),
    "scores in place": (lambda d, x, s, k: d & (s.neg_() <= float("inf")), ("select was changed",)),
    "counts in place": (lambda d, x, s, k: d & (k.add_(0).zero_() == 0).unsqueeze(1), ("remove was changed",)),
    "torch's generator": (
        lambda d, x, s, k: x.valid & ~smallest(torch.rand_like(s).where(x.valid, 9), k),
        ("global generator",),
    ),
    "python's generator": (lambda d, x, s, k: x.valid & ~smallest(_shuffled(x, s), k), ("another plan",)),
    "every pair": (lambda d, x, s, k: d & ((s.unsqueeze(1) > s.unsqueeze(2)).sum(1) >= 0), ("made a tensor of shape",)),
    "keys": (lambda d, x, s, k: d & (x.keys.sum() < 1e9), ("before the first layer", "'attention' among its needs")),
    "company": (
        lambda d, x, s, k: x.valid & ~smallest(s if len(s) == 5 else -s.masked_fill(~x.valid, float("-inf")), k),
        ("the same in any company",),
    ),
}


def _shuffled(layer: Any, select: Any) -> Any:
    """Scores in another order each time."""
    order = list(range(select.shape[1]))
    random.shuffle(order)
    return select[:, order].where(layer.valid, float("inf"))


@pytest.mark.parametrize("case", KEPT)
def test_a_merger_that_keeps_the_wrong_tokens(case: str) -> None:
    change, said = KEPT[case]

    class Broken(Drop):
        def kept(self, layer: Any, select: Any, remove: Any) -> Any:
            return change(super().kept(layer, select, remove), layer, select, remove)

    refuses(testing.check_merger, Broken, "merger 'dropping'", *said)


PLANS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "no plan": (lambda p, x: p.cluster, ("int64 tensor of shape", "expected: a TokenPlan")),
    "another shape": (
        lambda p, x: TokenPlan(p.cluster[:, 1:], p.weight),
        ("cluster: a int64 tensor of shape (5, 22)",),
    ),
    "another dtype": (lambda p, x: TokenPlan(p.cluster.float(), p.weight), ("float32", "an int64 tensor")),
    "gaps": (lambda p, x: TokenPlan(p.cluster * 2 + ~x.valid, p.weight), ("numbered 0, 1, 2, ...",)),
    "backwards": (
        lambda p, x: TokenPlan((p.cluster.amax(1, keepdim=True) - p.cluster).where(x.valid, -1), p.weight),
        ("in the order of their first tokens",),
    ),
    "negative weights": (lambda p, x: TokenPlan(p.cluster, -1 - p.weight), ("negative or not finite",)),
    "weights of another shape": (
        lambda p, x: TokenPlan(p.cluster, p.weight[:, :1]),
        ("weight: a float32 tensor of shape (5, 1)",),
    ),
    "members of a copy": (lambda p, x: TokenPlan(p.cluster, merges=False), ("the plan says merges = False",)),
}


@pytest.mark.parametrize("case", PLANS)
def test_a_merger_that_makes_a_wrong_plan(case: str) -> None:
    change, said = PLANS[case]

    class Broken(Join):
        def plan(self, layer: Any, select: Any, weight: Any, remove: Any) -> Any:
            weight = layer.valid.float() if weight is None else weight
            return change(super().plan(layer, select, weight, remove), layer)

    refuses(testing.check_merger, Broken, "merger 'joining'", "plan(layer, select, weight, remove)", *said)


def test_mergers_whose_class_is_wrong() -> None:
    refuses(
        testing.check_merger, type("All", (Drop,), {"capacity": lambda self, tokens: tokens}), "a clip keeps one token"
    )
    half = type("Half", (Drop,), {"capacity": lambda self, tokens: tokens / 2})
    refuses(testing.check_merger, half, "capacity(0)", "0.0", "an int from 0 to 0")
    averaging = type("Averaging", (Join,), {"sites": ("block", "cache")})
    refuses(testing.check_merger, averaging, "no cluster with two members", "nothing is averaged")
    inexact = type("Inexact", (Drop,), {"exact": False})
    refuses(testing.check_merger, inexact, "is_exact()", "all heads keep equally many")
    testing.check_merger(type("Inexact", (Join,), {"exact": False}))

    class Emptying(Join):
        exact = False

        def plan(self, layer: Any, select: Any, weight: Any, remove: Any) -> Any:
            plan = super().plan(layer, select, weight, remove)
            return TokenPlan(plan.cluster.masked_fill((remove > 0).unsqueeze(1), -1), weight)

    refuses(testing.check_merger, Emptying, "no token left", "at least one token left of every clip")


# ---- order ----


class Change(Norm):
    """How much a token differs from the one before: compares neighbours."""

    def importance(self, layer: Any) -> Any:
        return torch.nn.functional.pad((layer.hidden[:, 1:] - layer.hidden[:, :-1]).float().norm(dim=-1), (1, 0))


class Windowed(Norm):
    """A norm relative to a stretch of 50 tokens: counts places, and shows nothing in short clips."""

    def importance(self, layer: Any) -> Any:
        norm = super().importance(layer) * layer.valid
        wide = torch.nn.functional.pad(norm, (0, -norm.shape[1] % 50)).unflatten(1, (-1, 50))
        return (wide / wide.amax(2, keepdim=True).clamp_min(1e-6)).flatten(1)[:, : norm.shape[1]]


class Repeats(Norm):
    """Marks a token that is nearly the one before: random content has none."""

    def importance(self, layer: Any) -> Any:
        unit = torch.nn.functional.normalize(layer.hidden.float(), dim=-1)
        return torch.nn.functional.pad(((unit[:, 1:] * unit[:, :-1]).sum(-1) < 0.9).float(), (1, 0), value=1.0)


class Neighbours(Scorer):
    """A score of pairs that looks at its two tokens."""

    name = "neighbours"
    gives = ("affinity",)

    def affinity(self, layer: Any) -> Any:
        return -(layer.hidden[:, 1:] - layer.hidden[:, :-1]).float().norm(dim=-1)


class Spread(Drop):
    """Takes every other token first."""

    def kept(self, layer: Any, select: Any, remove: Any) -> Any:
        odd = torch.arange(select.shape[1], device=select.device) % 2
        return layer.valid & ~smallest((select + odd).where(layer.valid, float("inf")), remove)


ORDERED: dict[str, tuple[Any, Any]] = {
    "a change": (testing.check_scorer, Change),
    "a window": (testing.check_scorer, Windowed),
    "a repetition": (testing.check_scorer, Repeats),
    "a pair": (testing.check_scorer, Neighbours),
    "every other token": (testing.check_merger, Spread),
    "neighbours join": (testing.check_merger, type("Join", (Join,), {"needs": frozenset()})),
}


@pytest.mark.parametrize("case", ORDERED)
def test_who_depends_on_the_order_of_the_tokens_has_to_say_so(case: str) -> None:
    check, component = ORDERED[case]
    refuses(check, component, "the tokens of each clip in another order", "'order' among its needs")
    check(type("Declared", (component,), {"needs": frozenset({"order"})}))


def test_what_attention_says_of_a_token_goes_with_it() -> None:
    class Attended(Norm):
        needs = frozenset({"attention"})

        def importance(self, layer: Any) -> Any:
            return layer.received_attention() + layer.last_query_attention()

    testing.check_scorer(Attended)


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
