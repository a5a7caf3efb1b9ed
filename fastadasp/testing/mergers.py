"""The check of mergers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastadasp.contracts.components import Merger
from fastadasp.contracts.token_plan import TokenPlan
from fastadasp.engine.heads import by_head
from fastadasp.engine.view import LayerView
from fastadasp.testing.component import component
from fastadasp.testing.device import check_device_use
from fastadasp.testing.failure import Subject, describe
from fastadasp.testing.order import check_merger_order
from fastadasp.testing.purity import called_twice
from fastadasp.testing.views import LONG, PROMPTS, SIDES, SINGLE, WITHOUT_TEXT, Prompt, devices, rows_of, view_of, words

MOST = 64
"""Clips of up to this many tokens are asked for their capacity."""


@dataclass(frozen=True)
class _Scores:
    """What the engine hands to a merger beside the layer, made anew for any view of the same clips."""

    kind: str
    select: str = "varied"
    weight: str | None = "varied"
    dtype: torch.dtype = torch.float32

    def select_for(self, view: LayerView) -> Tensor:
        """Scores as the engine fills them: +inf for padding tokens, -inf for pairs that reach into padding."""
        if self.kind == "importance":
            return self._draw(self.select, view, 0).masked_fill(~view.valid, float("inf"))
        return self._draw(self.select, view, 0)[:, 1:].masked_fill(~view.valid[:, 1:], float("-inf"))

    def weight_for(self, view: LayerView) -> Tensor | None:
        return None if self.weight is None else self._draw(self.weight, view, 1).float()

    def _draw(self, how: str, view: LayerView, stream: int) -> Tensor:
        if how == "equal":
            return torch.ones_like(view.valid, dtype=self.dtype)
        if how == "zero":
            return torch.zeros_like(view.valid, dtype=self.dtype)
        return view.noise(1000 + stream).to(self.dtype)

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.select} {self.kind} ({dtype}), weights {self.weight or 'none'}"


@torch.no_grad()
def check_merger(merger: Merger | type[Merger] | str) -> None:
    """Checks that a merger keeps its contract.

    `capacity` is a number of tokens that a clip has; plans are well formed: a cluster for every token, numbered in the
    order of their first tokens, none for padding, usable weights. If the merger is exact, each clip loses as many
    tokens as asked for (none, one, half, all that it can), whatever the scores, equal ones included; if `merges` is
    False no cluster has two members. The same comes out again, alone and in a padded batch; nothing that is shown is
    changed; it does not wait for the device and makes no tensor of N x N; it can act at its `sites` and needs what it
    says in `needs`, the tokens' order included. A `threshold_field` is a parameter with bounds, and the larger it is
    the fewer tokens go.

    Args:
        merger: an object, a class (made with its defaults) or an installed name.

    Raises:
        ConformanceError: it does not.
    """
    made, subject = component("merger", merger, Merger)
    capacity = [_capacity(subject, made, tokens) for tokens in range(MOST + 1)]
    counts = view_of(PROMPTS).tokens
    most = [capacity[n] for n in counts]
    usual = _Scores(made.reads, weight="varied" if made.uses_weight else None)
    asked = {
        "none": [0] * len(most),
        "one": [min(1, k) for k in most],
        "half": [k // 2 for k in most],
        "all": most,
        "unequal": [k * (i % 3) // 2 for i, k in enumerate(most)],
    }

    def plan(view: LayerView) -> TokenPlan:
        return _plan(made, view, usual)

    for device in devices():
        for remove in asked.values():
            for side in SIDES:
                _check_plan(subject, made, view_of(PROMPTS, side=side, device=device, remove=remove), usual)
        for scores in _variants(made, usual):
            for remove in (asked["half"], asked["all"]):
                view = view_of(PROMPTS, dtype=scores.dtype, device=device, remove=remove)
                _check_plan(subject, made, view, scores)
        _check_plan(subject, made, view_of(SINGLE, device=device, remove=[capacity[1]]), usual)
        _check_each_alone(subject, made, usual, asked["half"], device)
        if device == "cpu":
            _check_threshold(subject, made, usual, most)
            _check_places(subject, made, usual, capacity)
            long = LONG[0].clips[0]
            few = view_of(LONG, remove=[min(made.capacity(long), long - 8)])
            check_device_use(subject.when(_doing(usual)), plan, view_of(PROMPTS, remove=asked["half"]), long=few)
            check_merger_order(subject, made)


def _check_threshold(subject: Subject, merger: Merger, scores: _Scores, most: list[int]) -> None:
    """Content decides as the engine's search for a threshold supposes."""
    name = merger.threshold_field
    if not name:
        return
    field = type(merger).model_fields.get(name)
    bounds = (
        [] if field is None else [getattr(m, end) for end in ("ge", "le") for m in field.metadata if hasattr(m, end)]
    )
    subject.when(f"threshold_field = {name!r}").expect(
        len(bounds) == 2 and field is not None and field.default is None,
        "no such parameter" if field is None else f"bounds {bounds}, default {field.default!r}",
        "a parameter with bounds (ge and le) that is None unless it is given",
    )
    left = []
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        asked = merger.model_copy(update={name: bounds[0] + part * (bounds[1] - bounds[0])})
        view = view_of(PROMPTS, remove=most)
        left.append((_plan(asked, view, scores).cluster.masked_fill(~view.valid, -1).amax(1) + 1).tolist())
    fewer = all(a <= b for one, next_one in pairwise(left) for a, b in zip(one, next_one, strict=True))
    subject.when(f"rising {name}").expect(fewer, f"tokens left {left}", "no clip loses more as it rises")


def _capacity(subject: Subject, merger: Merger, tokens: int) -> int:
    subject = subject.when(f"capacity({tokens})")
    most = subject.call("a number of tokens", merger.capacity, tokens)
    good = type(most) is int and 0 <= most <= max(tokens - 1, 0)
    subject.expect(good, repr(most), f"an int from 0 to {max(tokens - 1, 0)}: a clip keeps one token")
    return most


def _variants(merger: Merger, usual: _Scores) -> list[_Scores]:
    """Other scores and weights than the usual ones."""
    kind, weight = usual.kind, usual.weight
    out = [_Scores(kind, "equal", weight), _Scores(kind, "zero", weight)]
    out += [_Scores(kind, "varied", weight, dtype) for dtype in (torch.bfloat16, torch.float16)]
    return out + ([_Scores(kind, "varied", None), _Scores(kind, "varied", "zero")] if merger.uses_weight else [])


def _plan(merger: Merger, view: LayerView, scores: _Scores) -> TokenPlan:
    remove = view.remove
    assert remove is not None  # every view here has it
    return merger.plan(view, scores.select_for(view), scores.weight_for(view), remove)


def _doing(scores: _Scores) -> str:
    return f"plan(layer, select, weight, remove) with {scores}"


def _check_plan(subject: Subject, merger: Merger, view: LayerView, scores: _Scores) -> TokenPlan:
    subject = subject.when(f"{_doing(scores)}; {words(view)}; asked to remove {_listed(view.removals or ())}")
    select, weight, remove = scores.select_for(view), scores.weight_for(view), view.remove
    plan, again = called_twice(
        subject, lambda view: merger.plan(view, select, weight, remove),  # type: ignore[arg-type]
        view, select=select, weight=weight, remove=remove,
    )  # fmt: skip
    _expect_plan(subject, merger, view, plan)
    same = torch.equal(plan.cluster, again.cluster)
    subject.expect(same, "another plan when called again", "the same plan every time; noise comes from layer.noise()")
    return plan


def _expect_plan(subject: Subject, merger: Merger, view: LayerView, plan: Any) -> None:
    """A well-formed plan that removes what it should."""
    subject.expect(isinstance(plan, TokenPlan), describe(plan), "a TokenPlan")
    cluster, shape, device = plan.cluster, tuple(view.valid.shape), view.valid.device
    good = isinstance(cluster, Tensor) and tuple(cluster.shape) == shape and cluster.dtype == torch.int64
    good = good and cluster.device == device
    subject.expect(good, f"cluster: {describe(cluster)}", f"an int64 tensor of shape {shape} on the view's device")
    subject.expect(bool((cluster[~view.valid] == -1).all()), "clusters in the padding", "-1 for every padding entry")
    if plan.weight is not None:
        weight = plan.weight
        good = isinstance(weight, Tensor) and tuple(weight.shape) == shape and weight.is_floating_point()
        good = good and weight.device == device
        subject.expect(good, f"weight: {describe(weight)}", f"None, or floating point weights of shape {shape}")
        real = weight[view.valid]
        good = bool((real.isfinite() & (real >= 0)).all())
        subject.expect(good, "weights that are negative or not finite", "weights of at least 0")
    for row, (tokens, remove) in enumerate(zip(view.tokens, view.removals or (), strict=True)):
        exact = merger.is_exact() and not (merger.across_heads and view.heads > 1)
        _expect_clip(subject, merger, plan.merges, cluster[row, :tokens].tolist(), remove, exact)
    if merger.across_heads:
        gone = (view.valid & (cluster < 0)).sum(1).view(-1, view.heads).sum(1).tolist()
        asked = [view.heads * k for k in (view.removals or ())[:: view.heads]]
        subject.expect(gone == asked, f"{gone} tokens go from all heads together", f"{asked}, as asked")


def _expect_clip(subject: Subject, merger: Merger, merges: bool, clusters: list[int], remove: int, exact: bool) -> None:
    """One clip: `clusters` of its tokens."""
    tokens, shown = len(clusters), f"clusters {clusters}"
    kept = list(dict.fromkeys(number for number in clusters if number != -1))
    ordered = "clusters numbered 0, 1, 2, ... in the order of their first tokens, -1 for tokens that go"
    subject.expect(kept == list(range(len(kept))), shown, ordered)
    if exact or remove == 0:
        why = "as asked" if exact else "since nothing is to go"
        left = f"{len(kept)} of {tokens} tokens left: {shown}"
        subject.expect(len(kept) == tokens - remove, left, f"{tokens - remove} tokens left, {why}")
    subject.expect(len(kept) >= 1, "no token left", "at least one token left of every clip")
    if not merges or "cache" in merger.sites:
        alone = len(kept) == sum(number != -1 for number in clusters)
        why = (
            "the plan says merges = False"
            if not merges
            else "the merger can act in the cache, where nothing is averaged"
        )
        subject.expect(alone, shown, f"no cluster with two members: {why}")


def _check_each_alone(subject: Subject, merger: Merger, scores: _Scores, remove: Sequence[int], device: str) -> None:
    """A clip gets in a batch what it gets alone."""
    for side in SIDES:
        batch = view_of(PROMPTS, side=side, device=device, remove=remove)
        together = _plan(merger, batch, scores)
        for prompt, rows in rows_of(PROMPTS):
            alone = view_of((prompt,), device=device, remove=remove[rows])
            doing = f"{_doing(scores)}; {words(alone)}, alone and in a batch padded on the {side}"
            plan = _plan(merger, alone, scores)
            for row, tokens in enumerate(alone.tokens):
                ours = plan.cluster[row, :tokens].tolist()
                theirs = together.cluster[rows][row, :tokens].tolist()
                subject.when(doing).expect(ours == theirs, f"clusters {ours} and {theirs}", "the same in any company")


def _check_places(subject: Subject, merger: Merger, scores: _Scores, capacity: Sequence[int]) -> None:
    """At its sites, and without what is not among its needs."""

    def check(where: str, prompts: Sequence[Prompt], attention: bool, heads: bool, expected: str) -> None:
        tokens = [n for prompt in prompts for n in prompt.clips]
        view = view_of(prompts, attention=attention, remove=[capacity[n] // 2 for n in tokens])
        view = by_head(view) if heads else view
        at = subject.when(f"{_doing(scores)}; {words(view)}; {where}")
        _expect_plan(at, merger, view, at.call(expected, _plan, merger, view, scores))

    needs = f"its needs are {sorted(merger.needed())}"
    if "attention" not in merger.needed():
        where = f"before the first layer, where there are no queries and keys; {needs}"
        check(where, PROMPTS, False, False, "a plan, or 'attention' among its needs")
    if "text" not in merger.needed():
        check(f"prompts of audio alone; {needs}", WITHOUT_TEXT, True, False, "a plan, or 'text' among its needs")
    if "cache" in merger.sites:
        at = subject.when("is_exact()")
        at.expect(merger.is_exact(), "False", "True, since `sites` has 'cache': all heads keep equally many")
        check("one row a key/value head", PROMPTS, True, True, "a plan, since `sites` has 'cache'")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
