"""Later mergers: each rule against a plain reference for one clip."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plugins import component

import fastadasp
from fastadasp import LayerView
from fastadasp.engine.rotation import Rotation
from fastadasp.engine.spans import find_spans

FEW = settings(max_examples=40, deadline=None)
HEADS, DIM = 2, 4


def cosine(a, b):
    return float(a @ b / a.norm() / b.norm())


def make_view(clips, remove=None, text=3, past=0):
    """A view of clips with these (states [n, D], keys [n, heads, dim]), one a sample, padded on the left."""
    width = text + max(len(states) for states, _ in clips)
    ids = torch.zeros(len(clips), width, dtype=torch.int64)
    states = torch.randn(len(clips), width, clips[0][0].shape[-1], generator=torch.Generator().manual_seed(1))
    key = torch.randn(len(clips), HEADS, past + width, DIM, generator=torch.Generator().manual_seed(2))
    valid = torch.zeros(len(clips), past + width, dtype=torch.bool)
    for row, (own, keys) in enumerate(clips):
        begin = width - text - len(own)
        ids[row, begin : begin + len(own)] = 1
        states[row, begin : begin + len(own)] = own
        key[row, :, past + begin : past + begin + len(own)] = keys.transpose(0, 1)
        valid[row, past + begin :] = True
    return LayerView(
        layer_index=1,
        num_layers=4,
        seed=0,
        spans=find_spans(ids, valid[:, past:]),
        query=torch.randn(len(clips), 2 * HEADS, width, DIM, generator=torch.Generator().manual_seed(3)),
        key=key,
        states=states,
        scale=0.5,
        key_valid=valid,
        clip_keys=torch.arange(len(clips)),
        remove=None if remove is None else torch.tensor(remove),
        removals=None if remove is None else tuple(remove),
        value=torch.randn(len(clips), HEADS, past + width, DIM, generator=torch.Generator().manual_seed(4)),
        rotation=rotation_for(valid[:, past:]),
    )


def rotation_for(valid):
    """Rotary embedding of positions counted from 0 in each row."""

    def embed(positions):
        angles = (positions.unsqueeze(-1) / torch.tensor([1.0, 10.0], device=positions.device)).repeat(1, 1, 2)
        return angles.cos(), angles.sin()

    return Rotation(*embed((valid.cumsum(1) - 1).clamp_min(0)), valid.sum(1), embed)


@st.composite
def cases(draw, most=13, dim=24):
    """Some clips that drift like speech, importances of their tokens, and how many tokens each loses."""
    tokens = draw(st.lists(st.integers(1, most), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    drift = draw(st.sampled_from([0.3, 0.6, 3.0]))
    clips = []
    for n in tokens:
        steps = torch.randn(n, dim, generator=generator)
        steps[1:] *= drift
        clips.append((steps.cumsum(0), torch.randn(n, HEADS, DIM, generator=generator)))
    importance = [torch.rand(n, generator=generator) + 0.01 for n in tokens]
    remove = [draw(st.integers(0, n - 1)) for n in tokens]
    return clips, importance, remove


def plan(merger, clips, importance, remove, known=True, weight=None):
    """A merger's clusters for each clip, without padding, filled up as the engine does."""
    view = make_view(clips, remove if known else None)
    select = torch.full(view.valid.shape, float("inf"))
    weights = None if weight is None else torch.full(view.valid.shape, 7.0)
    for row, values in enumerate(importance):
        select[row, : len(values)] = values
        if weights is not None:
            weights[row, : len(values)] = weight[row]
    made = merger.plan(view, select, weights, torch.tensor(remove))
    assert made.cluster.shape == view.valid.shape
    for row, n in enumerate(view.tokens):
        assert made.cluster[row, n:].tolist() == [-1] * (view.valid.shape[1] - n)
    return [made.cluster[row, :n].tolist() for row, n in enumerate(view.tokens)]


def from_kept(n, kept):
    """Cluster numbers where the tokens of `kept` stay and the others go."""
    order = sorted(kept)
    return [order.index(i) if i in kept else -1 for i in range(n)]


def from_sets(n, sets):
    """Cluster numbers of disjoint sets of tokens, counted in the order of their first tokens."""
    clusters = [-1] * n
    for number, members in enumerate(sorted(sets, key=min)):
        for i in members:
            clusters[i] = number
    return clusters


MERGERS = {
    "segment-topk": {"length": 4},
    "segment-topk 3": {"segments": 3},
    "segment-topk softmax": {"length": 4, "share": "softmax", "temperature": 0.5},
    "dart": {"pivots": 3},
    "divprune": {},
    "visionzip": {"contextual": 0.4},
    "sa-map": {"longest": 5},
}


@pytest.mark.parametrize("name", MERGERS)
@given(cases())
@FEW
def test_exactly_k_go_and_a_clip_alone_gets_the_same(name, case):
    clips, importance, remove = case
    merger = component("merger", name.split()[0], **MERGERS[name])
    assert merger.is_exact()
    together = plan(merger, clips, importance, remove)
    assert together == plan(merger, clips, importance, remove, known=False)
    for clip, values, k, ours in zip(clips, importance, remove, together, strict=True):
        assert ours == plan(merger, [clip], [values], [k])[0]
        numbers = [c for c in ours if c >= 0]
        assert list(dict.fromkeys(numbers)) == list(range(len(values) - k))  # in the order of their first tokens
        assert merger.capacity(len(values)) == len(values) - 1


def on_meta(view):
    """The view without its values: whatever asks for one, as a wait for the device does, fails."""
    spans = replace(
        view.spans, **{name: getattr(view.spans, name).to("meta") for name in ("sample", "start", "counts")}
    )
    names = ("query", "key", "value", "states", "key_valid", "clip_keys", "remove")
    turns = view.rotation
    turns = replace(turns, **{name: getattr(turns, name).to("meta") for name in ("cos", "sin", "follows")})
    return replace(view, spans=spans, rotation=turns, **{name: getattr(view, name).to("meta") for name in names})


BUILT_IN = [
    (kind, entry.name)
    for kind in ("scorer", "merger")
    for entry in fastadasp.get_registry().entries(kind)
    if entry.origin.distribution == "fastadasp"
    and "encoder" not in component(kind, entry.name).needed()  # tests/test_encoder.py has an encoder to show them
]


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_no_component_waits_for_the_device(kind, name):
    generator = torch.Generator().manual_seed(0)
    clips = [(torch.randn(n, 8, generator=generator), torch.randn(n, HEADS, DIM)) for n in (9, 12)]
    view, part = on_meta(make_view(clips, [4, 5])), component(kind, name)
    if kind == "scorer":
        for score in part.gives:
            assert getattr(part, score)(view).device.type == "meta"
        return
    select = torch.empty(2, 12 - (part.reads == "affinity"), device="meta")
    weight = torch.empty(2, 12, device="meta") if part.uses_weight else None
    assert part.plan(view, select, weight, view.remove).cluster.shape == (2, 12)


# ---- mergers, each against its definition ----


def segments_of(n, segments=None, length=None):
    cut = [i // length if length else i * segments // n for i in range(n)]
    return [[i for i in range(n) if cut[i] == s] for s in dict.fromkeys(cut)]


@pytest.mark.parametrize("options", [{"length": 4}, {"segments": 3}, {"length": 50}])
@given(cases())
@FEW
def test_segment_topk_shares_by_largest_remainder(options, case):
    clips, importance, remove = case
    clusters = plan(component("merger", "segment-topk", **options), clips, importance, remove)
    for values, k, ours in zip(importance, remove, clusters, strict=True):
        n, kept = len(values), set()
        stay = n - k
        ranked = [sorted(part, key=lambda i: -values[i]) for part in segments_of(n, **options)]
        whole = [stay * len(part) // n for part in ranked]
        over = [Fraction(stay * len(part), n) - took for part, took in zip(ranked, whole, strict=True)]
        turn = sorted(
            (s for s in range(len(ranked)) if over[s]), key=lambda s: (-over[s], -values[ranked[s][whole[s]]])
        )
        for s in turn[: stay - sum(whole)]:
            whole[s] += 1
        for part, took in zip(ranked, whole, strict=True):
            kept |= set(part[:took])
        assert ours == from_kept(n, kept)


@given(cases())
@FEW
def test_segment_topk_shares_by_softmax(case):
    clips, importance, remove = case
    merger = component("merger", "segment-topk", length=4, share="softmax", temperature=0.5)
    for values, k, ours in zip(importance, remove, plan(merger, clips, importance, remove), strict=True):
        n = len(values)
        parts = segments_of(n, length=4)
        claims = []
        powers = [math.exp(float(values[part].double().sum()) / 0.5) for part in parts]
        for part, power in zip(parts, powers, strict=True):
            share = (n - k) * power / sum(powers)
            for rank, i in enumerate(sorted(part, key=lambda i: -values[i])):
                claims.append((round(share - rank, 5), float(values[i]), i))
        assert ours == from_kept(n, {i for *_, i in sorted(claims, reverse=True)[: n - k]})


def test_what_a_full_segment_cannot_hold_goes_to_the_others_in_turn():
    importance = [torch.tensor([9.0, 9.0, 0.4, 0.3, 0.2, 0.1, 0.6, 0.5])]
    clips = [(torch.randn(8, 4), torch.randn(8, HEADS, DIM))]
    merger = component("merger", "segment-topk", length=2, share="softmax", temperature=0.1)
    assert plan(merger, clips, importance, [3]) == [[0, 1, 2, -1, 3, -1, 4, -1]]
    assert plan(merger, clips, importance, [4]) == [[0, 1, 2, -1, -1, -1, 3, -1]]


@pytest.mark.parametrize("pivots", [1, 3, 20])
@given(cases())
@FEW
def test_dart(pivots, case):
    clips, importance, remove = case
    clusters = plan(component("merger", "dart", pivots=pivots), clips, importance, remove)
    for (states, _), values, k, ours in zip(clips, importance, remove, clusters, strict=True):
        n = len(values)
        chosen = sorted(range(n), key=lambda i: -values[i])[: min(pivots, n - k)]
        each, over = divmod(n - k - len(chosen), len(chosen))
        kept = set(chosen)
        for turn, pivot in enumerate(chosen):
            left = sorted(set(range(n)) - kept, key=lambda i: cosine(states[i], states[pivot]))
            kept |= set(left[: each + (turn < over)])
        assert ours == from_kept(n, kept)


@given(cases())
@FEW
def test_divprune_is_farthest_point_selection(case):
    clips, importance, remove = case
    clusters = plan(component("merger", "divprune"), clips, importance, remove)
    for (states, _), values, k, ours in zip(clips, importance, remove, clusters, strict=True):
        n, kept = len(values), [int(values.argmax())]
        unit = torch.nn.functional.normalize(states, dim=-1)
        distance = 1 - unit @ unit.T
        while len(kept) < n - k:
            left = [i for i in range(n) if i not in kept]
            kept.append(max(left, key=lambda i: float(distance[i, kept].min())))
        assert ours == from_kept(n, kept)


@pytest.mark.parametrize("contextual", [0.15625, 0.5, 1.0])
@given(cases())
@FEW
def test_visionzip(contextual, case):
    clips, importance, remove = case
    clusters = plan(component("merger", "visionzip", contextual=contextual), clips, importance, remove)
    for (_, keys), values, k, ours in zip(clips, importance, remove, clusters, strict=True):
        n, flat = len(values), keys.flatten(1)
        few = min(max(math.floor((n - k) * contextual + 0.5), 1), n - k)
        dominant = sorted(range(n), key=lambda i: -values[i])[: n - k - few]
        rest = [i for i in range(n) if i not in dominant]
        targets = [rest[t * len(rest) // few] for t in range(few)]
        sets = {i: {i} for i in [*dominant, *targets]}
        for i in rest:
            if i not in targets:
                sets[max(targets, key=lambda t: cosine(flat[i], flat[t]))].add(i)
        assert ours == from_sets(n, sets.values())


def grown(states, threshold, longest):
    """SA-MAP's groups, grown token by token, and the mean cosine with which each join was made."""
    groups, joins = [], {}
    for i in range(len(states)):
        if groups and len(groups[-1]) < longest:
            mean = sum(cosine(states[j], states[i]) for j in groups[-1]) / len(groups[-1])
            if mean >= threshold:
                groups[-1].append(i)
                joins[i] = mean
                continue
        groups.append([i])
    return groups, joins


@pytest.mark.parametrize(("threshold", "longest"), [(0.85, 32), (0.5, 3), (-1.0, 32), (0.9, 1)])
@given(cases())
@FEW
def test_sa_map(threshold, longest, case):
    clips, importance, remove = case
    weight = [values.flip(0) for values in importance]
    merger = component("merger", "sa-map", threshold=threshold, longest=longest)
    clusters = plan(merger, clips, importance, remove, weight=weight)
    for (states, _), r, w, k, ours in zip(clips, importance, weight, remove, clusters, strict=True):
        n = len(r)
        _, joins = grown(states, threshold, longest)
        strong = set(sorted(joins, key=lambda i: -joins[i])[:k])
        groups = []
        for i in range(n):
            groups[-1].append(i) if i in strong else groups.append([i])
        means = torch.stack([(states[g] * w[g, None]).sum(0) / w[g].sum() for g in groups]).double()
        unit = torch.nn.functional.normalize(means, dim=-1)
        relevance = torch.stack([r[g].mean() for g in groups]).double()
        kernel = relevance[:, None] * (unit @ unit.T) * relevance
        picks = []
        while len(picks) < n - k:
            left = [g for g in range(len(groups)) if g not in picks]
            trial = [[*picks, g] for g in left]
            picks = max(trial, key=lambda s: float(torch.linalg.det(kernel[s][:, s])))
        assert ours == from_sets(n, [set(groups[g]) for g in picks])


def test_sa_map_keeps_the_important_where_features_run_out():
    """More tokens stay than there are dimensions: the rest goes by relevance, and counts hold."""
    states = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    importance = torch.linspace(0.1, 1, 12)
    clips = [(states, torch.randn(12, HEADS, DIM))]
    (ours,) = plan(component("merger", "sa-map", threshold=1.0), clips, [importance], [3])
    assert len([c for c in ours if c >= 0]) == 9
    assert [ours[i] < 0 for i in (9, 10, 11)] == [False] * 3
