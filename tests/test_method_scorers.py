"""Later scorers, each against a plain reference for one clip, and every installed strategy at work."""

from __future__ import annotations

import json
import math
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_methods import DIM, FEW, HEADS, cases, cosine, from_kept, make_view, plan
from test_plugins import component, scores
from tiny import LAYERS, MANY, ONE, Sample, audio_model, batch, error

import fastadasp
from fastadasp import StrategyError
from fastadasp.counts.schedule import removals

INSTALLED = [entry.name for entry in fastadasp.get_registry().entries("strategy")]


@given(st.integers(1, 60), st.data())
@FEW
def test_stride_is_even(n, data):
    k = data.draw(st.integers(0, n - 1))
    clips = [(torch.randn(count, 4), torch.randn(count, HEADS, DIM)) for count in (n, 5)]
    importance = component("scorer", "stride").importance(make_view(clips, [k, 2]))
    (ours, other) = plan(component("merger", "drop"), clips, [importance[0, :n], importance[1, :5]], [k, 2])
    assert ours == from_kept(n, {t * n // (n - k) for t in range(n - k)})
    assert other == [0, 1, -1, 2, -1]
    places = [i for i, c in enumerate(ours) if c >= 0]
    gaps = {b - a for a, b in zip(places, [*places[1:], n], strict=True)}
    assert max(gaps) - min(gaps) <= 1


def test_stride_without_a_count_is_nested():
    clips = [(torch.randn(32, 4), torch.randn(32, HEADS, DIM))]
    importance = component("scorer", "stride").importance(make_view(clips))
    for every in (2, 4, 8):
        (ours,) = plan(component("merger", "drop"), clips, [importance[0]], [32 - 32 // every])
        assert ours == from_kept(32, set(range(0, 32, every)))


@pytest.mark.parametrize(("window", "of"), [(1, "hidden"), (3, "hidden"), (50, "hidden"), (2, "keys")])
@given(cases())
@FEW
def test_window_similarity(window, of, case):
    clips, *_ = case
    scorer = component("scorer", "window-similarity", window=window, of=of)
    assert ("attention" in scorer.needed()) == (of == "keys")
    ours = scorer.affinity(make_view(clips))
    for row, (states, keys) in enumerate(clips):
        x = states if of == "hidden" else keys.flatten(1)
        for i in range(len(x) - 1):
            back = range(max(i - window + 1, 0), i + 1)
            mean = sum(cosine(x[j], x[i + 1]) for j in back) / len(back)
            assert float(ours[row, i]) == pytest.approx(mean, abs=1e-5)


@given(cases(most=150))
@settings(max_examples=10, deadline=None)
def test_isolation_and_key_norm(case):
    clips, *_ = case
    view = make_view(clips)
    isolation = component("scorer", "isolation").importance(view)
    longest, euclid = (component("scorer", "key-norm", order=order).importance(view) for order in (1, 2))
    for row, (states, keys) in enumerate(clips):
        unit = torch.nn.functional.normalize(states, dim=-1)
        alike = (unit @ unit.T).fill_diagonal_(-1).amax(1)
        assert torch.allclose(isolation[row, : len(states)], 1 - alike, atol=1e-5)
        assert torch.allclose(longest[row, : len(states)], keys.abs().sum((1, 2)))
        assert torch.allclose(euclid[row, : len(states)], keys.square().sum((1, 2)).sqrt())


@pytest.mark.parametrize("side", ["left", "right"])
def test_last_query_attention_follows_the_model(side):
    """What the scorer gives is the last real row of the maps that eager attention returns."""
    model, inputs = audio_model("eager"), batch(*MANY, side=side)
    maps = model(**inputs, output_attentions=True).attentions[1]
    last = (inputs["attention_mask"] * torch.arange(maps.shape[-1])).amax(1)
    ((view, ours),) = scores(component("scorer", "last-query-attention"), inputs, model=model)
    assert ours.dtype == torch.float32
    spans = view.spans
    for row, (sample, start, n) in enumerate(zip(spans.samples, spans.start.tolist(), spans.tokens, strict=True)):
        naive = maps[sample, :, last[sample], start : start + n].mean(0)
        assert torch.allclose(ours[row, :n], naive, rtol=1e-4, atol=1e-6)
    assert spans.samples == (0, 1, 3, 3)


def test_last_query_attention_with_earlier_keys():
    generator = torch.Generator().manual_seed(0)
    clips = [(torch.randn(n, 8, generator=generator), torch.randn(n, HEADS, DIM)) for n in (5, 9)]
    view = make_view(clips, past=4)
    ours = view.last_query_attention()
    for row, n in enumerate((5, 9)):
        key = view.key[row].repeat_interleave(2, 0)
        logits = (view.query[row, :, -1:] @ key.transpose(1, 2)).squeeze(1) * view.scale
        weights = logits.masked_fill(~view.key_valid[row], -math.inf).softmax(-1).mean(0)
        start = 4 + int(view.spans.start[row])
        assert torch.allclose(ours[row, :n], weights[start : start + n], atol=1e-6)


class Reads(fastadasp.Scorer):
    """Remembers the text that the view shows."""

    name = "reads"
    gives = ("importance",)

    def importance(self, layer):
        return layer.hidden.norm(dim=-1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("schedule", ["single-shot", "constant"])
def test_text_is_what_is_neither_audio_nor_padding(side, schedule):
    samples = (*MANY[:2], MANY[3])
    for view, _ in scores(Reads(), batch(*samples, side=side), schedule=schedule):
        states, valid = view.text()
        inside = torch.zeros(view.states.shape[:2], dtype=torch.bool)
        for sample, start, n in zip(view.spans.samples, view.spans.start.tolist(), view.spans.tokens, strict=True):
            inside[sample, start : start + n] = True
        shown = torch.ones_like(inside) if view.key_valid is None else view.key_valid[:, -inside.shape[1] :]
        for row, sample in enumerate(view.spans.samples):
            text = view.states[sample][shown[sample] & ~inside[sample]]
            assert len(text) == sum(samples[sample].text) == view.spans.text[row]
            assert torch.equal(states[row, : len(text)], text)
            assert valid[row].tolist() == [True] * len(text) + [False] * (states.shape[1] - len(text))
    assert view.layer_index == (1 if schedule == "single-shot" else LAYERS - 1)


def test_text_similarity_is_the_mean_cosine():
    ((view, ours),) = scores(component("scorer", "text-similarity"), batch(*MANY))
    states, valid = view.text()
    for row, n in enumerate(view.tokens):
        for i in range(n):
            mean = sum(cosine(view.hidden[row, i], x) for x in states[row][valid[row]]) / int(valid[row].sum())
            assert float(ours[row, i]) == pytest.approx(mean, abs=1e-5)


def test_a_prompt_without_text():
    inputs = batch(ONE, Sample((0, 0), (11,), seed=2))
    with (
        fastadasp.load_strategy("speechprune").apply(audio_model()),
        pytest.raises(StrategyError, match="'speechprune' compares audio with text, but sample 1 has no text tokens"),
    ):
        audio_model()(**inputs)
    with fastadasp.load_strategy("fastv").apply(audio_model()):
        audio_model()(**inputs)


# ---- every installed strategy ----


def placed(name, budget):
    """The strategy; at layer 1 if it would have to be calibrated."""
    method = fastadasp.load_strategy(name, budget=budget)
    return method.replace(**{"layers.layer": 1}) if method.needs_calibration else method


@pytest.mark.parametrize("budget", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", INSTALLED)
def test_every_strategy_at_every_budget(name, budget):
    model, inputs, method = audio_model(), batch(*MANY), placed(name, budget)
    with torch.no_grad(), method.apply(model) as trace:
        together = model(**inputs).logits[:, -1]
        layers = list(trace.layers)
        assert torch.equal(together, model(**inputs).logits[:, -1])
        for row, sample in enumerate(MANY):
            assert error(together[row], model(**batch(sample)).logits[0, -1]) <= 1e-5
            for whole, alone in zip(layers, trace.layers, strict=True):
                assert whole.audio_tokens_per_sample[row] == alone.audio_tokens_per_sample[0]
    left = [23, 11, 14, 17]
    for layer, counts in zip(layers, removals(method, LAYERS, left), strict=True):
        left = [n - k for n, k in zip(left, counts, strict=True)]
        planned = (left[0], left[1], 0, left[2] + left[3])
        if method.site == "cache":
            assert layer.audio_tokens_per_sample == (23, 11, 0, 31)
            kept = tuple(k - sum(sample.text) for k, sample in zip(layer.kv_length_per_sample, MANY, strict=True))
            assert kept == planned
        elif method.merger.is_exact():
            assert layer.audio_tokens_per_sample == planned
        else:
            assert all(n >= k for n, k in zip(layer.audio_tokens_per_sample, planned, strict=True))


@lru_cache
def embedded():
    """The embedded model and the inputs of one clip of its test set."""
    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    from fastadasp.audio import read_audio
    from fastadasp.demo import data_path, model_path, prompts

    model = Qwen2AudioForConditionalGeneration.from_pretrained(model_path(), local_files_only=True).eval()
    processor = AutoProcessor.from_pretrained(model_path(), local_files_only=True)
    lines = (data_path() / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    row = next(row for row in map(json.loads, lines) if row["task"] == "asr")
    rate = processor.feature_extractor.sampling_rate
    inputs = processor(
        text=[prompts.build_prompt(prompts.INSTRUCTIONS["asr"][0])],
        audio=[read_audio(data_path() / row["audio_filepath"], rate)],
        sampling_rate=rate,
        return_tensors="pt",
    )
    return model, inputs


@pytest.mark.parametrize("budget", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", INSTALLED)
def test_every_strategy_on_the_embedded_model(name, budget):
    model, inputs = embedded()
    method = placed(name, budget)
    with torch.no_grad(), method.apply(model) as trace:
        logits = model(**inputs).logits
    assert bool(logits.isfinite().all())
    tokens = int((inputs["input_ids"] == model.config.audio_token_id).sum())
    last = trace.layers[-1]
    left = last.audio_tokens
    if method.site == "cache":
        assert left == tokens
        left = last.kv_length - (inputs["input_ids"].shape[1] - tokens)
    gone = [counts[0] for counts in removals(method, len(trace.layers), [tokens])]
    planned = tokens - sum(gone)
    assert planned <= left < tokens
    assert left == planned or not method.merger.is_exact()
    leaves = method.schedule.exit_layer(method.layers.start_layer(len(gone)), len(gone))
    met = tokens - sum(gone[:leaves])  # what a late layer takes in the end is not the budget's affair
    assert abs(met - tokens * (1 - budget)) <= 0.5 or method.merger.capacity(tokens) < tokens * budget
