"""What evicts keys and values: each rule against an obvious reference, padded, with several clips and with beams."""

from __future__ import annotations

import math

import pytest
import torch
from cache_views import HEADS, clips_of, maps, seen, shared
from test_plugins import component
from tiny import LAYERS, MANY, ONE, Sample, audio_model, batch, error

import fastadasp
from fastadasp import StrategyError, testing
from fastadasp.engine.heads import by_head
from fastadasp.ops import turn
from fastadasp.upstream.names import cache_argument, cache_of

CACHE = sorted(
    entry.name
    for entry in fastadasp.get_registry().entries("strategy")
    if entry.value.site == "cache" and entry.origin.distribution == "fastadasp"
)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("window", "kernel"), [(4, 3), (8, 5), (64, 1)])
def test_window_attention(side, window, kernel):
    inputs = batch(*MANY, side=side)
    view, ours = seen("snapkv", inputs, **{"select.window": window, "select.kernel": kernel})
    full = maps(inputs)
    inside = 0
    for row, sample, columns, places in clips_of(view, inputs):
        own = full[sample][:, columns][:, :, columns]
        n, first = len(columns), max(len(columns) - window, 0)
        rows = own[:, first:].mean(1)
        rows[:, first:] = 0
        half = kernel // 2
        pooled = torch.stack([rows[:, max(t - half, 0) : t + half + 1].sum(1) / kernel for t in range(n)], 1)
        expected = shared(pooled)
        for head in range(HEADS):
            mine = ours[row * HEADS + head, : len(places)]
            for i, place in enumerate(places):
                if place < first:
                    assert float(mine[i]) == pytest.approx(float(expected[head, place]), rel=1e-4, abs=1e-6)
                else:
                    inside += 1
                    assert float(mine[i]) > 1
    assert (inside > 0) == (window > 4)


def test_an_average_has_a_middle():
    with pytest.raises(StrategyError, match="an average around a token takes an odd number of tokens"):
        fastadasp.load_strategy("snapkv", **{"select.kernel": 4})


@pytest.mark.parametrize("side", ["left", "right"])
def test_tova_has_one_choice_for_all_heads(side):
    inputs = batch(*MANY, Sample((4,), (9,), seed=7), side=side)  # the last one ends with audio
    view, ours = seen("tova", inputs)
    full = maps(inputs)
    for row, sample, columns, places in clips_of(view, inputs):
        last = full[sample][:, columns[-1]][:, columns].mean(0)
        for head in range(HEADS):
            for i, place in enumerate(places):
                expected = 2.0 if place == len(columns) - 1 else float(last[place])
                assert float(ours[row * HEADS + head, i]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_observed_attention_is_a_mean_over_the_queries_that_see_a_key(side):
    inputs = batch(*MANY, side=side)
    view, ours = seen("observed-attention", inputs)
    full = maps(inputs)
    for row, sample, columns, places in clips_of(view, inputs):
        own = full[sample][:, columns][:, :, columns].sum(1).unflatten(0, (HEADS, -1)).sum(1)
        for head in range(HEADS):
            for i, place in enumerate(places):
                expected = float(own[head, place]) / (len(columns) - place)
                assert float(ours[row * HEADS + head, i]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("parts", [{}, {"covariance": False}, {"values": False, "epsilon": 0.01, "sinks": 0}])
def test_expected_attention(side, parts):
    """In float64 from the model's own projections, sample by sample, positions counted from 0."""
    model, inputs = audio_model("eager"), batch(*MANY, side=side)
    own_positions = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    given = {**inputs, "position_ids": own_positions}
    view, ours = seen(
        "expected-attention", given, **{f"select.{k}": v for k, v in parts.items()}, **{"select.ahead": 30}
    )
    settings = component("scorer", "expected-attention", ahead=30, **parts)
    caught = {}
    attention = model.model.language_model.layers[1].self_attn
    hook = attention.register_forward_pre_hook(
        lambda module, args, kwargs: caught.update(states=kwargs["hidden_states"].double()), with_kwargs=True
    )
    with torch.no_grad():
        model(**given)
    hook.remove()
    size = attention.head_dim
    speed = 10000.0 ** (-torch.arange(0, size, 2).double() / size)

    def rotation(position):
        """The matrix that turns a head's channels at a position."""
        matrix = torch.zeros(size, size, dtype=torch.float64)
        for i, angle in enumerate((position * speed).tolist()):
            j = i + size // 2
            matrix[i, i] = matrix[j, j] = math.cos(angle)
            matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
        return matrix

    def project(layer, states):
        made = states @ layer.weight.double().T + (0 if layer.bias is None else layer.bias.double())
        return made.unflatten(-1, (-1, size)).transpose(0, 1)  # [heads, tokens, size]

    for row, sample, columns, places in clips_of(view, inputs):
        states, n, sinks = caught["states"][sample][columns], len(columns), settings.sinks
        query, key, value = (project(layer, states) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
        key = torch.stack([key[:, t] @ rotation(t).T for t in range(n)], 1)
        ahead = torch.stack([rotation(n + s) for s in range(30)]).mean(0)
        weights = []
        for head in range(len(query)):
            mine = query[head, sinks:]
            mean = ahead @ mine.mean(0)
            centred = mine - mine.mean(0)
            spread = ahead @ (centred.T @ centred / len(mine)) @ ahead.T
            keys = key[head * HEADS // len(query)]
            logits = keys @ mean / size**0.5
            if settings.covariance:
                logits = logits + ((keys @ spread) * keys).sum(1) / (2 * size)
            weights.append(torch.cat([torch.zeros(sinks), logits[sinks:].softmax(0)]))
        scores = shared(torch.stack(weights)) + settings.epsilon
        if settings.values:
            scores = scores * value.norm(dim=-1)
        for head in range(HEADS):
            for i, place in enumerate(places):
                found = float(ours[row * HEADS + head, i])
                if place < sinks:
                    assert found > float(scores.max())
                else:
                    assert found == pytest.approx(float(scores[head, place]), rel=1e-3, abs=1e-6)


def test_expected_attention_needs_a_rotation_it_knows():
    layer = testing.view_of((testing.Prompt((3, 2), (9,), 1),))
    layer.rotation = None
    with pytest.raises(StrategyError, match="needs queries that are turned by rotary embedding in halves"):
        component("scorer", "expected-attention").importance(layer)


def test_a_rotation_is_undone():
    layer = testing.view_of((testing.Prompt((3, 2), (9,), 1), testing.Prompt((5,), (4,), 2)))
    turned = torch.randn(2, 4, layer.states.shape[1], layer.query.shape[-1])
    cos, sin = layer.rotation.cos.unsqueeze(1), layer.rotation.sin.unsqueeze(1)
    assert torch.allclose(layer.rotation.undo(turn(turned, cos, sin)), turned, atol=1e-5)
    assert torch.equal(turn(turned, cos[..., :4], sin[..., :4])[..., 4:], turned[..., 4:])  # partly rotary


def test_streaming_llm_by_hand():
    """Of nine tokens with two sinks, four stay: the first two and the last two; with one kept it is the first."""
    layer = testing.view_of((testing.Prompt((3, 2), (9,), 1), testing.Prompt((3,), (3,), 2)), remove=[5, 2])
    scores = component("scorer", "sinks-and-recent", sinks=2).importance(layer)
    made = component("merger", "drop").plan(layer, scores.masked_fill(~layer.valid, math.inf), None, layer.remove)
    assert made.cluster.tolist() == [[0, 1, -1, -1, -1, -1, -1, 2, 3], [0, -1, -1, *[-1] * 6]]


def test_knorm_keeps_small_keys_of_each_head():
    layer = by_head(testing.view_of((testing.Prompt((3, 2), (9,), 1),)))
    ours = component("scorer", "key-norm", prefer="short").importance(layer)
    assert torch.allclose(ours, -layer.whole.keys[0].norm(dim=-1).T, atol=1e-6)


def test_pyramid_by_hand():
    pyramid = component("schedule", "pyramid", beta=2, window=8)
    assert pyramid.counts(77, 0.6, 0, 4) == (46, 36, 26, 15)
    assert component("schedule", "pyramid", window=8).counts(77, 0.3, 0, 4) == (69, 59, 49, 39)
    assert component("schedule", "pyramid", window=8).counts(77, 0.6, 0, 4) == (31, 31, 31, 31)  # lo is 1.54, below 8
    assert pyramid.counts(80, 0.5, 1, 3) == (80, 60, 20)
    ratios = component("schedule", "pyramid", beta=2).ratios(0.5, 0, 3)
    assert [round(1 - r, 6) for r in ratios] == [0.75, round(0.5 / 0.75, 6), 0.5]  # 3/4, 1/2, 1/4 of the tokens
    assert pyramid.counts(77, 0.6, 3, 4) == (77, 77, 77, 31)


def test_pyramidkv_counts_in_the_model():
    """Counts fall from layer to layer, and meet half of the bytes where that is asked for."""
    with torch.no_grad(), fastadasp.load_strategy("pyramidkv", kv=0.4).apply(audio_model()) as trace:
        audio_model()(**batch(ONE))
    kept = [layer.kv_length for layer in trace.layers]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1]
    assert abs(sum(kept) / (LAYERS * len(ONE)) - 0.6) <= 0.5 / len(ONE)


@pytest.mark.parametrize("name", CACHE)
def test_decoding_in_a_padded_batch_is_as_alone(name):
    """Logits of tokens that are fed after the prompt, which see only what each head kept."""
    model, inputs = audio_model(), batch(*MANY)

    def decode(given):
        with torch.no_grad(), fastadasp.load_strategy(name).apply(model):
            out = model(**given, use_cache=True)
            mask, steps = given["attention_mask"], []
            for token in (5, 9, 3):
                mask = torch.nn.functional.pad(mask, (0, 1), value=1)
                out = model(
                    input_ids=torch.full((len(mask), 1), token),
                    attention_mask=mask,
                    **cache_argument(cache_of(out)),
                    position_ids=mask.sum(1, keepdim=True) - 1,
                )
                steps.append(out.logits[:, -1])
        return torch.stack(steps, 1)

    together = decode({**inputs, "position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)})
    for row, sample in enumerate(MANY):
        assert error(together[row], decode(batch(sample))[0]) <= 1e-4


@pytest.mark.parametrize("name", CACHE)
def test_beams(name):
    """Beam search in a padded batch gives each sample what it gives alone, and what it gives row by row."""
    model, inputs = audio_model(), batch(*MANY)
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False}
    with torch.no_grad(), fastadasp.load_strategy(name).apply(model):
        together = model.generate(**inputs, **options)[:, -5:]
        for row, sample in enumerate(MANY):
            assert together[row].tolist() == model.generate(**batch(sample), **options)[0, -5:].tolist()
