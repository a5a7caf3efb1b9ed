"""The field's plain methods: each against an obvious reference, and worked by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from test_methods import FEW, cases, cosine, from_sets, make_view, plan
from test_plugins import component, scores
from tiny import LAYERS, MANY, ONE, Sample, audio_model, batch, error

import fastadasp
from fastadasp import StrategyError, testing

ON_FEATURES = ("average-pool", "evs", "halving", "ltbm")


def clip(*angles, size=1.0):
    """Hidden states on a circle, and keys that are the same twice: cosines are those of the angles, in degrees."""
    x = torch.tensor(angles).deg2rad()
    states = size * torch.stack([x.cos(), x.sin()], 1)
    return states, torch.nn.functional.pad(states, (0, 2)).unsqueeze(1).expand(-1, 2, -1).contiguous()


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


def plan_pairs(merger, clips, select, remove):
    """`plan` for mergers that read pairs."""
    view = make_view(clips, remove)
    scores = torch.full((len(clips), view.valid.shape[1] - 1), float("-inf"))
    for row, values in enumerate(select):
        scores[row, : len(values)] = values
    made = merger.plan(view, scores, None, view.remove)
    return [made.cluster[row, :n].tolist() for row, n in enumerate(view.tokens)]


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


# ---- attention of the text ----


def maps_of_text(side):
    """By clip of a padded batch: the eager maps of its text rows [heads, M, N], the view, and its text states."""
    model, inputs = audio_model("eager"), batch(*MANY, side=side)
    maps = model(**inputs, output_attentions=True).attentions[1]
    ((view, _),) = scores(component("scorer", "text-raters"), inputs, model=model)
    columns, real = view.text_columns("a test")
    out = []
    for row, (sample, start, n) in enumerate(
        zip(view.spans.samples, view.spans.start.tolist(), view.spans.tokens, strict=True)
    ):
        out.append(maps[sample][:, columns[row][real[row]], start : start + n])
    return view, out, inputs, model


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_attention_follows_the_model(side):
    """The rows of eager maps, text before a clip included (which cannot see it), plain and weighted."""
    view, maps, *_ = maps_of_text(side)
    ours = view.text_attention()
    weight = torch.rand(len(maps), view.text()[0].shape[1], generator=torch.Generator().manual_seed(0))
    weighted = view.text_attention(weight)
    for row, naive in enumerate(maps):
        n, m = naive.shape[2], naive.shape[1]
        assert torch.allclose(ours[row, :, :n], naive.mean(1), rtol=1e-4, atol=1e-6)
        w = weight[row, :m] / weight[row, :m].sum()
        assert torch.allclose(weighted[row, :, :n], (naive * w[:, None]).sum(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_raters(side):
    view, maps, inputs, model = maps_of_text(side)
    ((_, ours),) = scores(component("scorer", "text-raters"), inputs, model=model)
    text, real = view.text()
    chosen = set()
    for row, naive in enumerate(maps):
        n, words = naive.shape[2], text[row][real[row]].double()
        relevance = torch.stack([(words @ view.hidden[row, j].double()).softmax(0) for j in range(n)]).mean(0)
        raters = [i for i in range(len(words)) if relevance[i] >= relevance.mean()]
        chosen.add((len(raters), len(words)))
        assert torch.allclose(ours[row, :n], naive[:, raters].mean((0, 1)), rtol=1e-4, atol=1e-7)
    assert any(few < many for few, many in chosen)  # not all text rates


@pytest.mark.parametrize("side", ["left", "right"])
def test_routed_heads(side):
    _, maps, inputs, model = maps_of_text(side)
    ((_, ours),) = scores(component("scorer", "routed-heads"), inputs, model=model)
    for row, naive in enumerate(maps):
        n, a = naive.shape[2], naive.mean(1).double()
        mass = a.sum(1)
        share = a / mass[:, None]
        entropy = -(share * share.clamp_min(1e-300).log()).sum(1)
        weight = mass * (1 - entropy / torch.tensor(float(n)).log())
        expected = (share * (weight / weight.sum())[:, None]).sum(0)
        assert torch.allclose(ours[row, :n].double(), expected, rtol=1e-4, atol=1e-6)
        assert float(ours[row, :n].sum()) == pytest.approx(1, abs=1e-5)


# ---- audio leaves ----


def test_leaving_by_hand():
    leaving = component("schedule", "leaving")
    assert leaving.ratios(0.5, 2, 8) == (0, 0, 0.5, 0, 0, 0, 0, 0)
    assert [leaving.exit_layer(2, n) for n in (3, 4, 8, 32)] == [None, 3, 6, 24]
    assert leaving.exit_layer(7, 8) is None


def late(**changed):
    return fastadasp.load_strategy("late-removal", **{"layers.layer": 1, "schedule.depth": 0.5, **changed})


@pytest.mark.parametrize("site", ["input", "block"])
def test_late_layers_are_those_of_the_text_alone(site):
    """From the layer on where audio leaves, tokens and keys are those of the text."""
    with torch.no_grad(), late(site=site).apply(audio_model()) as trace:
        audio_model()(**batch(*MANY))
    text = tuple(sum(sample.text) for sample in MANY)
    assert all(abs(a - b) <= 1 for a, b in zip(trace.layers[1].audio_tokens_per_sample, (11, 5, 0, 15), strict=True))
    for layer in trace.layers[2:]:
        assert layer.audio_tokens_per_sample == (0, 0, 0, 0)
        assert layer.tokens_out_per_sample == text
        assert layer.kv_length_per_sample == text or (site == "block" and layer.layer == 2)


def test_what_follows_is_the_text_by_itself():
    """The last layers on the text's states alone, at its own positions, give the same states."""
    model, inputs, states = audio_model(), batch(ONE), {}
    decoder = model.model.language_model
    for depth in (0.5, 0.75):
        with torch.no_grad(), late(**{"schedule.depth": depth}).apply(model):
            hooks = [
                decoder.layers[i].register_forward_hook(
                    lambda module, args, output, at=(depth, i): states.update({at: output})
                )
                for i in (1, LAYERS - 1)
            ]
            model(**inputs)
            for hook in hooks:
                hook.remove()
    before, places = states[0.75, 1], torch.tensor([[*range(5), *range(28, 35)]])
    x = torch.cat([before[:, :5], before[:, -7:]], 1)
    mask = torch.full((12, 12), float("-inf")).triu(1)[None, None]
    for layer in decoder.layers[2:]:
        with torch.no_grad():
            x = layer(x, attention_mask=mask, position_embeddings=decoder.rotary_emb(x, places), position_ids=places)
    assert x.shape == states[0.5, LAYERS - 1].shape
    assert error(states[0.5, LAYERS - 1], x) <= 1e-5


def test_audio_leaves_in_batches_caches_and_generation():
    model = audio_model()
    for method in (late(), late(site="block"), late(site="cache", merger="drop")):
        with torch.no_grad(), method.apply(model) as trace:
            together = model.generate(**batch(*MANY), max_new_tokens=4, do_sample=False)[:, -4:]
            keys = trace.layers[-1].kv_length_per_sample
            for row, sample in enumerate(MANY):
                alone = model.generate(**batch(sample), max_new_tokens=4, do_sample=False)[0, -4:]
                assert together[row].tolist() == alone.tolist()
        assert keys == tuple(sum(sample.text) for sample in MANY)


def test_what_leaving_saves_is_counted():
    shape = fastadasp.DecoderShape(8, 32, 4, 2, 8, 48)
    solved = late().solve(shape, 10, [40])
    assert solved.survivors[0] == (40, 20, 20, 20, 0, 0, 0, 0)
    path = [(50, 50), *[(30, 30)] * 3, *[(10, 10)] * 4]
    assert solved.flops_removed == pytest.approx(1 - shape.prefill_flops(path) / shape.prefill_flops([(50, 50)] * 8))
    assert solved.tokens_removed == 1
    assert "lets all audio leave at layer 4" in late(**{"layers.layer": 0, "select": "novelty"}).why_not_on_features(8)


def test_nothing_may_be_all():
    """A prompt without text would be left with nothing."""
    for site in ("input", "cache"):
        with (
            late(site=site, merger="drop").apply(audio_model()),
            pytest.raises(
                StrategyError, match="lets all audio leave, but sample 1 has no text tokens beside its audio"
            ),
        ):
            audio_model()(**batch(ONE, Sample((0, 0), (11,), seed=2)))


# ---- as many as are alike enough ----


def test_a_threshold_by_hand():
    """Turns of 5, 60, 5, 5 and 40 degrees: three pairs are within 10 degrees; of these two may go where k is 2."""
    x = clip(0, 5, 65, 70, 75, 115)
    affinity = component("scorer", "window-similarity").affinity(make_view([x]))
    merger = component("merger", "runs", threshold=0.98)  # cosine of 11.5 degrees
    assert not merger.is_exact()
    assert component("merger", "runs").is_exact()
    assert plan_pairs(merger, [x], [affinity[0]], [5]) == [[0, 0, 1, 1, 1, 2]]
    assert max(plan_pairs(merger, [x], [affinity[0]], [2])[0]) == 3
    assert plan_pairs(component("merger", "runs", threshold=-1), [x], [affinity[0]], [5]) == [[0] * 6]
    assert plan_pairs(component("merger", "runs", threshold=1), [x], [affinity[0]], [5]) == [[0, 1, 2, 3, 4, 5]]


@given(cases())
@FEW
def test_as_many_go_as_are_alike_enough(case):
    clips, *_ = case
    merger = component("merger", "runs", threshold=0.5)
    affinity = component("scorer", "window-similarity").affinity(make_view(clips))
    select = [affinity[row, : len(states) - 1] for row, (states, _) in enumerate(clips)]
    clusters = plan_pairs(merger, clips, select, [len(states) - 1 for states, _ in clips])
    for values, ours in zip(select, clusters, strict=True):
        assert ours == [int((values[:i] < 0.5).sum()) for i in range(len(values) + 1)]


def test_thresholds_at_two_stages_in_the_model():
    """Each clip loses what it has to lose, in a padded batch as alone, and the trace tells it."""
    model = audio_model()
    method = fastadasp.load_strategy(
        "dual-affinity-pooling", **{"merger.threshold": 0.2, "schedule.at": [0.5], "budget": "ratio=0.99"}
    )
    with torch.no_grad(), method.apply(model) as trace:
        model(**batch(*MANY))
        together = [layer.audio_tokens_per_sample for layer in trace.layers]
        for row, sample in enumerate(MANY):
            model(**batch(sample))
            assert [layer.audio_tokens_per_sample[0] for layer in trace.layers] == [counts[row] for counts in together]
    first, second = together[0], together[2]
    shares = [left / sum(sample.clips) for left, sample in zip(first, MANY, strict=True) if sample.clips]
    assert len(set(shares)) > 1  # no common ratio
    assert 0 < second[0] < first[0] < 23
    assert "other counts than asked for" in method.replace(schedule="single-shot").why_not_on_features(10)
