"""The built-in methods against slow, obvious references."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import MANY, ONE, Sample, audio_model, batch, embed, strategy, text_model

import fastadasp
from fastadasp import StrategyError
from fastadasp.counts.schedule import layer_ratios, removals, survivors_by_layer

FEW = settings(max_examples=80, deadline=None)
SCHEDULES = ("single-shot", "constant", "decay")


def component(kind, name, **parameters):
    return fastadasp.get_registry().get(kind, name)(**parameters)


@st.composite
def clips_with_scores(draw, capacity):
    """Some clips of different lengths, distinct scores for their tokens, and how many tokens each loses."""
    tokens = draw(st.lists(st.integers(1, 13), min_size=1, max_size=4))
    scores = [draw(st.permutations(range(n))) for n in tokens]
    remove = [draw(st.integers(0, capacity(n))) for n in tokens]
    return tokens, scores, remove


def run(merger, tokens, scores, remove, weight=None):
    """The clusters of a merger, without the padding, as lists; padding as the engine fills it."""
    longest = max(tokens)
    valid = torch.arange(longest) < torch.tensor(tokens).unsqueeze(1)
    pairs = merger.reads == "affinity"
    padded = torch.full((len(tokens), longest - pairs), float("-inf" if pairs else "inf"))
    for row, values in enumerate(scores):
        values = values[: len(values) - pairs]
        padded[row, : len(values)] = torch.tensor(values, dtype=torch.float32)
    layer = SimpleNamespace(valid=valid, tokens=tuple(tokens))
    plan = merger.plan(layer, padded, weight, torch.tensor(remove))
    for row, n in enumerate(tokens):
        assert plan.cluster[row, n:].tolist() == [-1] * (longest - n)
    return [plan.cluster[row, :n].tolist() for row, n in enumerate(tokens)], plan


def joined(n, pairs):
    """Cluster numbers of n tokens where each i in `pairs` joins i and i + 1."""
    clusters = [0]
    for i in range(n - 1):
        clusters.append(clusters[-1] + (i not in pairs))
    return clusters


def best(scores, count):
    """The `count` places with the largest scores."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:count]


def walk(pairs):
    """A-ToMe's walk from left to right that jumps past both tokens of a pair."""
    taken, last = set(), -2
    for i in sorted(pairs):
        if i > last + 1:
            taken.add(i)
            last = i
    return taken


@FEW
@given(clips_with_scores(lambda n: n - 1))
def test_runs(case):
    tokens, scores, remove = case
    clusters, plan = run(component("merger", "runs"), tokens, scores, remove)
    assert plan.merges
    for n, values, k, ours in zip(tokens, scores, remove, clusters, strict=True):
        assert ours == joined(n, best(values[:-1], k))
        assert ours[-1] + 1 == n - k


@FEW
@given(clips_with_scores(lambda n: n - 1))
def test_drop(case):
    tokens, scores, remove = case
    merger = component("merger", "drop")
    clusters, plan = run(merger, tokens, scores, remove)
    assert not plan.merges
    for n, values, k, ours in zip(tokens, scores, remove, clusters, strict=True):
        gone = sorted(range(n), key=lambda i: values[i])[:k]
        assert [i for i in range(n) if ours[i] == -1] == sorted(gone)
        assert [c for c in ours if c >= 0] == list(range(n - k))


@FEW
@given(clips_with_scores(lambda n: n - 1))
def test_pairs_skip_is_the_walk(case):
    tokens, scores, remove = case
    clusters, _ = run(component("merger", "pairs", overlap="skip"), tokens, scores, remove)
    for n, values, k, ours in zip(tokens, scores, remove, clusters, strict=True):
        assert ours == joined(n, walk(best(values[:-1], k)))


@FEW
@given(clips_with_scores(lambda n: n // 2))
def test_pairs_fill_takes_exactly_k(case):
    tokens, scores, remove = case
    clusters, _ = run(component("merger", "pairs"), tokens, scores, remove)
    for n, values, k, ours in zip(tokens, scores, remove, clusters, strict=True):
        assert ours[-1] + 1 == n - k
        marks = next(m for m in range(n) if len(walk(best(values[:-1], m))) == k)  # the fewest that yield k
        assert ours == joined(n, walk(best(values[:-1], marks)))


@pytest.mark.parametrize("tokens", range(8))
def test_capacities(tokens):
    assert component("merger", "runs").capacity(tokens) == max(tokens - 1, 0)
    assert component("merger", "drop").capacity(tokens) == max(tokens - 1, 0)
    assert component("merger", "pairs").capacity(tokens) == tokens // 2
    assert component("merger", "pairs", overlap="skip").capacity(tokens) == max(tokens - 1, 0)
    assert component("merger", "pairs").is_exact()
    assert not component("merger", "pairs", overlap="skip").is_exact()


def test_ties_go_to_the_left():
    clusters, _ = run(component("merger", "runs"), [5], [[1, 1, 1, 1, 0]], [2])
    assert clusters == [[0, 0, 0, 1, 2]]
    clusters, _ = run(component("merger", "drop"), [5], [[1, 1, 1, 1, 1]], [2])
    assert clusters == [[-1, -1, 0, 1, 2]]


# ---- schedules and budgets ----


@given(st.floats(0, 0.99), st.integers(1, 40), st.data())
@FEW
def test_schedule_formulas(ratio, layers, data):
    start = data.draw(st.integers(0, layers - 1))
    single, constant, decay = (component("schedule", name).ratios(ratio, start, layers) for name in SCHEDULES)
    for i in range(layers):
        assert single[i] == (ratio if i == start else 0)
        assert constant[i] == (ratio if i >= start else 0)
        if i < start:
            assert decay[i] == 0
        elif start == layers - 1:
            assert decay[i] == ratio
        else:
            assert decay[i] == pytest.approx(ratio * (1 - (i - start) / (layers - 1 - start)), abs=1e-12)


@given(
    st.sampled_from(SCHEDULES), st.integers(0, 1500), st.integers(1, 45), st.sampled_from(["runs", "drop"]), st.data()
)
@FEW
def test_a_token_budget_is_met_to_half_a_token(schedule, tokens, percent, merger, data):
    layers = data.draw(st.integers(2, 32))
    start = data.draw(st.integers(0, layers - 2))
    select = {"runs": "key-similarity", "drop": "received-attention"}[merger]
    budget = data.draw(st.sampled_from([percent, 50, 70])) / 100
    recipe = {"name": "x", "select": select, "merger": merger, "schedule": schedule, "budget": budget}
    method = fastadasp.load_strategy({**recipe, "layers": {"name": "fixed", "layer": start}})
    counts = survivors_by_layer(method, layer_ratios(method, layers), tokens)
    goal = tokens * (1 - budget)
    assert abs(counts[-1] - goal) <= 0.5 + 1e-6 or (counts[-1] == 1 and goal < 1)
    assert all(a >= b for a, b in zip((tokens, *counts), counts, strict=False))
    taken = removals(method, layers, [tokens, 7])
    assert tokens - sum(k for k, _ in taken) == counts[-1]
    assert all(k == 0 for layer in taken[:start] for k in layer)


@given(st.sampled_from(SCHEDULES), st.integers(0, 1500), st.integers(1, 99), st.integers(0, 30))
@FEW
def test_a_ratio_budget_is_the_released_codes(schedule, tokens, percent, start):
    ratio, layers = percent / 100, 32
    method = strategy("weighted", schedule=schedule, budget={"ratio": ratio}, layers={"name": "fixed", "layer": start})
    now, expected = tokens, []
    for i in range(layers):
        r = ratio if i >= start else 0.0
        if schedule == "single-shot" and i != start:
            r = 0.0
        if schedule == "decay" and i >= start:
            r = ratio * (1 - (i - start) / (layers - 1 - start))
        now -= int(now * r)
        expected.append(now)
    assert list(survivors_by_layer(method, layer_ratios(method, layers), tokens)) == expected


def test_a_ratio_near_a_whole_number_of_tokens():
    """int(n r) of floats, no more and no less: 10 x 0.7 is 7 and 10 x 0.29 is 2."""
    for tokens, ratio in ((10, 0.7), (10, 0.29), (100, 0.29), (50, 0.58)):
        method = strategy("weighted", budget={"ratio": ratio})
        kept = survivors_by_layer(method, layer_ratios(method, 4), tokens)[-1]
        assert kept == tokens - int(tokens * ratio)
        assert abs(Fraction(tokens - kept) - Fraction(ratio) * tokens) <= 1


def test_a_clip_never_vanishes():
    for name in ("weighted", "prune", "fastadasp-dense"):
        method = strategy(name, budget=0.95)
        for tokens in range(5):
            assert survivors_by_layer(method, layer_ratios(method, 8), tokens)[-1] >= min(tokens, 1)


def test_fixed_layer():
    selector = component("layer-selector", "fixed", layer=3)
    assert selector.start_layer(4) == 3
    with pytest.raises(StrategyError, match="layers 0 to 2"):
        selector.start_layer(3)


# ---- scorers inside a model ----


class Spy(fastadasp.Scorer):
    """Remembers what another scorer gives."""

    name = "spy"
    gives = ("importance", "affinity")
    inner: fastadasp.Scorer
    seen: list

    def importance(self, layer):
        self.seen.append((layer, self.inner.importance(layer)))
        return self.seen[-1][1]

    def affinity(self, layer):
        self.seen.append((layer, self.inner.affinity(layer)))
        return self.seen[-1][1]


def scores(scorer, inputs, model=None, spans=None, seed=0, layer=1, merger="drop", schedule="single-shot"):
    """What `scorer` gives at the acting layers of a model: (view, scores) each."""
    recipe = {"name": "x", "select": "random", "merger": merger, "schedule": schedule, "budget": {"ratio": 0.3}}
    method = fastadasp.load_strategy({**recipe, "layers": {"name": "fixed", "layer": layer}, "seed": seed})
    spy = Spy.model_construct(inner=scorer, seen=[])
    with torch.no_grad(), method.model_copy(update={"select": spy}).apply(model or audio_model(), spans=spans):
        (model or audio_model())(**inputs)
    return spy.seen


def test_key_similarity_is_the_cosine_of_neighbouring_keys():
    seen = scores(component("scorer", "key-similarity"), batch(*MANY), merger="runs")
    ((view, ours),) = seen
    key = view.key.transpose(1, 2).flatten(2)  # [B, T, key/value heads x head_dim]
    spans = view.spans
    for row, (sample, start, n) in enumerate(zip(spans.samples, spans.start.tolist(), spans.tokens, strict=True)):
        for i in range(n - 1):
            a, b = key[sample, start + i], key[sample, start + i + 1]
            assert float(ours[row, i]) == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-5)


def test_uniform_scores_are_one():
    scorer = component("scorer", "uniform")
    ((view, ours),) = scores(scorer, batch(*MANY))
    assert torch.equal(ours, view.valid.float())
    ((view, ours),) = scores(scorer, batch(*MANY), merger="runs")
    assert torch.equal(ours, view.valid[:, 1:].float())


def noise(inputs, row=0, **options):
    scorer = component("scorer", "random", stream=options.pop("stream", 0))
    return [ours[row, : view.tokens[row]] for view, ours in scores(scorer, inputs, **options)]


def test_random_scores_repeat_and_differ():
    inputs = batch(ONE)
    (first,) = noise(inputs)
    assert torch.equal(first, noise(inputs)[0])
    assert bool(((first >= 0) & (first < 1)).all())
    others = {
        "another seed": noise(inputs, seed=1),
        "another layer": noise(inputs, layer=2),
        "another stream": noise(inputs, stream=1),
        "a large seed": noise(inputs, seed=2**70),
        "another clip": noise(batch(Sample((5, 7), (23,), seed=9))),
        "streams are not layers": noise(inputs, layer=0, stream=16),
    }
    drawn = [first, *(value[0] for value in others.values())]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert float((one - other).abs().mean()) > 0.1
    layers = noise(inputs, schedule="constant")
    assert len(layers) == 3
    assert not torch.equal(layers[0][:5], layers[1][:5])
    clips = scores(component("scorer", "random"), batch(MANY[3]))[0][1]
    assert not torch.equal(clips[0, :10], clips[1, :10])


@pytest.mark.parametrize("side", ["left", "right"])
def test_random_scores_of_a_clip_are_the_same_in_a_batch(side):
    ((view, together),) = scores(component("scorer", "random"), batch(*MANY, side=side))
    row = 0
    for sample in MANY:
        for clip in range(len(sample.clips)):
            (alone,) = noise(batch(sample), row=clip)
            assert torch.equal(together[row, : view.tokens[row]], alone)
            row += 1
    assert row == len(view.tokens) == 4


def test_random_scores_by_embeddings_and_in_a_text_decoder():
    inputs = batch(*MANY)
    embeds, spans = embed(audio_model(), inputs)
    ((_, by_ids),) = scores(component("scorer", "random"), inputs)
    given = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
    ((_, by_embeds),) = scores(component("scorer", "random"), given, spans=spans)
    assert torch.equal(by_ids, by_embeds)
    ids = torch.randint(2, 60, (2, 20), generator=torch.Generator().manual_seed(0))
    marks = torch.zeros(2, 20, dtype=torch.int64)
    marks[:, 3:15] = 1
    ((_, by_content),) = scores(component("scorer", "random"), {"input_ids": ids}, text_model(), marks)
    assert not torch.equal(by_content[0], by_content[1])


def test_random_scores_are_uniform():
    inputs = [batch(Sample((3, 3), (45,), seed=seed)) for seed in range(40)]
    values = torch.cat([noise(one)[0] for one in inputs])
    assert float(values.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(values.var()) == pytest.approx(1 / 12, abs=0.01)
    rows = torch.stack(values.split(45))
    assert float(torch.corrcoef(rows).fill_diagonal_(0).abs().max()) < 0.6
