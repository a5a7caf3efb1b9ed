"""Checks of mergers, and of what depends on the order of tokens: what breaks its contract is told."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from conformance_cases import Norm, refuses, threshold

from fastadasp import Merger, Scorer, TokenPlan, testing
from fastadasp.ops import clusters_from_joins, clusters_from_kept, largest, smallest

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
