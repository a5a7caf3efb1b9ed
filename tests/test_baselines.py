"""The field's plain methods: each against an obvious reference, and worked by hand."""

from __future__ import annotations

import pytest
import torch
from drawn_clips import clip, plan_pairs
from hypothesis import given
from test_methods import FEW, cases, cosine, from_sets, make_view, plan
from test_plugins import component

import fastadasp
from fastadasp import testing

ON_FEATURES = ("average-pool", "evs", "halving", "ltbm")


# ---- average pooling ----


@given(cases())
@FEW
def test_average_pools_are_consecutive_and_nearly_equal(case):
    clips, _, remove = case
    affinity = component("scorer", "stride").affinity(make_view(clips, remove))
    select = [affinity[row, : len(states) - 1] for row, (states, _) in enumerate(clips)]
    clusters = plan_pairs(component("merger", "runs"), clips, select, remove)
    for (states, _), k, ours in zip(clips, remove, clusters, strict=True):
        n, m = len(states), len(states) - k
        starts = [t * n // m for t in range(m)]
        assert ours == [sum(start <= i for start in starts) - 1 for i in range(n)]
        sizes = [ours.count(c) for c in range(m)]
        assert max(sizes) - min(sizes) <= 1


def test_average_pool_by_hand():
    x = torch.arange(1.0, 8.0).unsqueeze(1).expand(-1, 4).contiguous()
    (half,) = fastadasp.load_strategy("average-pool").reduce([x[:6]], layers=10)
    assert half.features[:, 0].tolist() == [1.5, 3.5, 5.5]
    assert half.places.tolist() == [0, 2, 4]
    (third,) = fastadasp.load_strategy("average-pool", budget=2 / 3).reduce([x[:6]], layers=10)
    assert third.features[:, 0].tolist() == [2.0, 5.0]
    (odd,) = fastadasp.load_strategy("average-pool", budget=4 / 7).reduce([x], layers=10)
    assert odd.features[:, 0].tolist() == [1.5, 3.5, 6.0]  # pools of 2, 2 and 3


# ---- EVS ----


@given(cases())
@FEW
def test_novelty_is_the_distance_to_the_token_before(case):
    clips, *_ = case
    ours = component("scorer", "novelty").importance(make_view(clips))
    for row, (states, _) in enumerate(clips):
        naive = [3.0, *(1 - cosine(states[i], states[i + 1]) for i in range(len(states) - 1))]
        assert ours[row, : len(states)].tolist() == pytest.approx(naive, abs=1e-5)


def test_evs_by_hand():
    """Turns of 5, 60, 0, 30 and 90 degrees: of six tokens the first and those after the two largest turns stay."""
    x = clip(0, 5, 65, 65, 95, 185)[0]
    (left,) = fastadasp.load_strategy("evs").reduce([x], layers=10)
    assert left.places.tolist() == [0, 2, 5]
    assert torch.equal(left.features, x[[0, 2, 5]])


# ---- bipartite matching ----


def matched(x, k, window=None):
    """Sets that join when the k best edges from even to odd tokens are taken, inside windows if there are any."""
    n = len(x)
    width = window or n
    odd = [i for i in range(n) if i % width % 2]
    edges = []
    for i in range(n):
        own = [j for j in odd if j // width == i // width]
        if i not in odd and own:
            best = max(own, key=lambda j: (cosine(x[i], x[j]), -j))
            edges.append((-cosine(x[i], x[best]), i, best))
    sets = {i: {i} for i in range(n)}
    for _, i, best in sorted(edges)[:k]:
        sets[best] |= sets.pop(i)
    return sets.values()


@pytest.mark.parametrize("window", [None, 2, 5])
@pytest.mark.parametrize("of", ["hidden", "keys"])
@given(cases())
@FEW
def test_bipartite_soft_matching(of, window, case):
    clips, _, remove = case
    scorer = component("scorer", "isolation", among="odd", of=of, window=window)
    merger = component("merger", "bipartite", of=of, window=window)
    remove = [min(k, merger.capacity(len(states))) for k, (states, _) in zip(remove, clips, strict=True)]
    view = make_view(clips, remove)
    select = [scorer.importance(view)[row, : len(states)] for row, (states, _) in enumerate(clips)]
    clusters = plan(merger, clips, select, remove)
    for (states, keys), k, ours in zip(clips, remove, clusters, strict=True):
        x = states if of == "hidden" else keys.flatten(1)
        assert ours == from_sets(len(x), matched(x, k, window))
        assert max(ours) == len(x) - k - 1


def test_bipartite_by_hand():
    """Even tokens at 0, 50 and 90 degrees, odd ones at 40, 92 and 10: 4-3 is closest, then 0-5 and 2-1."""
    x = clip(0, 40, 50, 92, 90, 10)
    select = component("scorer", "isolation", among="odd", of="keys").importance(make_view([x]))
    merger = component("merger", "bipartite")
    assert plan(merger, [x], [select[0]], [1]) == [[0, 1, 2, 3, 3, 4]]
    assert plan(merger, [x], [select[0]], [3]) == [[0, 1, 1, 2, 2, 0]]
    assert [merger.capacity(n) for n in range(6)] == [0, 0, 1, 1, 2, 2]


def test_windows_keep_partners_near():
    """Token 0 joins its double far away; with windows of three (odd: tokens 1 and 4) it joins token 1."""
    x = clip(0, 40, 120, 80, 160, 0.5)
    for window, k, joined in ((None, 1, [0, 1, 2, 3, 4, 0]), (3, 2, [0, 0, 1, 2, 2, 3])):
        scorer = component("scorer", "isolation", among="odd", window=window)
        merger = component("merger", "bipartite", of="hidden", window=window)
        assert plan(merger, [x], [scorer.importance(make_view([x]))[0]], [k]) == [joined]


# ---- halving ----


def halved(states, weight, m):
    """FastLongSpeech's loop for one clip, token by token."""
    groups = [[i] for i in range(len(states))]
    while len(groups) > m:
        means = [(states[g] * weight[g, None]).sum(0) / weight[g].sum() for g in groups]
        alike = [cosine(means[i], means[i + 1]) for i in range(len(groups) - 1)]
        after = max(len(groups) // 2, m)
        joins = sorted(range(len(alike)), key=lambda i: -alike[i])[: len(groups) - after]
        merged = []
        for i, group in enumerate(groups):
            merged[-1].extend(group) if i - 1 in joins and i else merged.append(list(group))
        groups = merged
    return groups


@given(cases())
@FEW
def test_halving(case):
    clips, importance, remove = case
    view = make_view(clips, remove)
    affinity = component("scorer", "window-similarity").affinity(view)
    scores = affinity.masked_fill(~view.valid[:, 1:], float("-inf"))
    weight = torch.ones(view.valid.shape)
    for row, values in enumerate(importance):
        weight[row, : len(values)] = values
    made = component("merger", "halving").plan(view, scores, weight, view.remove)
    for row, ((states, _), values, k) in enumerate(zip(clips, importance, remove, strict=True)):
        n = len(states)
        assert made.cluster[row, :n].tolist() == from_sets(n, map(set, halved(states, values, n - k)))


def test_halving_by_hand():
    """Eight tokens to two: pairs first, then the means at 5, 65, 125 and 300 are compared."""
    x = clip(0, 10, 60, 70, 120, 130, 299, 301)[0]
    (left,) = fastadasp.load_strategy("halving", budget=0.75).reduce([x], layers=10)
    assert left.places.tolist() == [0, 6]
    assert torch.allclose(left.features[1], x[6:].mean(0))
    (half,) = fastadasp.load_strategy("halving", budget=0.5).reduce([x], layers=10)
    assert half.places.tolist() == [0, 2, 4, 6]


# ---- stages ----


def test_staged_by_hand():
    staged = component("schedule", "staged")
    assert [i for i, r in enumerate(staged.ratios(0.5, 8, 32)) if r] == [8, 16, 24]  # PyramidDrop's
    assert [i for i, r in enumerate(staged.ratios(0.5, 20, 32)) if r] == [20, 24]
    assert staged.ratios(0.3, 0, 4) == (0.3, 0.0, 0.3, 0.3)
    deep = component("schedule", "staged", at=[0.90625])
    assert [[i for i, r in enumerate(deep.ratios(0.5, 0, n)) if r] for n in (10, 32)] == [[0, 9], [0, 29]]


def test_the_window_of_the_deep_stage():
    layer = testing.view_of((testing.Prompt((3, 2), (9,), 1),))
    own, both = (component("scorer", "window-similarity", **given) for given in ({"window": 3}, {"deep_window": 3}))
    assert torch.equal(own.affinity(layer), both.affinity(layer))
    first = testing.view_of((testing.Prompt((3, 2), (9,), 1),), attention=False)
    assert first.layer_index == 0
    assert torch.equal(component("scorer", "window-similarity").affinity(first), both.affinity(first))


@pytest.mark.parametrize("name", ON_FEATURES)
def test_these_can_be_served(name):
    assert fastadasp.load_strategy(name).why_not_on_features(10) is None
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    (left,) = fastadasp.load_strategy(name).reduce([x], layers=10)
    assert len(left.features) == 10
