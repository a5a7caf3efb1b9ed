"""Methods that rate by the text's attention, audio that leaves, and thresholds."""

from __future__ import annotations

import pytest
import torch
from drawn_clips import clip, plan_pairs
from hypothesis import given
from test_methods import FEW, cases, make_view
from test_plugins import component, scores
from tiny import LAYERS, MANY, ONE, Sample, audio_model, batch, error

import fastadasp
from fastadasp import StrategyError

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
