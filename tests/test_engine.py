"""The engine in a model: nothing removed changes nothing, all is put back, counts are true, errors are clear."""

from __future__ import annotations

import pytest
import torch
from tiny import (
    AUDIO,
    LAYERS,
    MANY,
    ONE,
    RECIPES,
    Sample,
    audio_model,
    batch,
    cache_lengths,
    embed,
    strategy,
    strategy_names,
    text_model,
)

from fastadasp import ModelError, StrategyError
from fastadasp.counts.schedule import layer_ratios, removals
from fastadasp.upstream.names import cache_of

pytestmark = pytest.mark.usefixtures("no_grad")

NAMES = strategy_names()
POSITIONS = ("original", "compact")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")


# ---- nothing removed ----

NOTHING = {
    "budget rounds to zero": (batch(ONE), "ratio=0.01"),
    "token budget rounds to zero": (batch(ONE), "tokens=0.01"),
    "no audio": (batch(Sample((9,))), 0.5),
    "no audio, padded": (batch(Sample((9,)), Sample((4,))), 0.5),
    "one audio token": (batch(Sample((3, 5), (1,))), 0.9),
    "one audio token each, padded": (batch(Sample((3, 2, 5), (1, 1)), Sample((2, 2), (1,))), 0.9),
}


@pytest.mark.parametrize("case", NOTHING)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_removed_is_the_plain_model(name, positions, attention, case):
    model, (inputs, budget) = audio_model(attention), NOTHING[case]
    if name == "fastadasp-decay" or name in RECIPES:
        budget = "ratio=0.01" if "rounds" in case else budget
    plain = model(**inputs, use_cache=True)
    method = strategy(name, positions=positions, budget=budget)
    if method.then is not None:
        method = method.replace(**{"then.budget": "ratio=0.01"})
    if method.schedule.exit_layer(1, LAYERS) is not None:  # which removes all in the end, whatever the budget
        method = method.replace(schedule="single-shot")
    with method.apply(model) as trace:
        ours = model(**inputs, use_cache=True)
    assert torch.equal(ours.logits, plain.logits)
    for mine, theirs in zip(cache_of(ours).layers, cache_of(plain).layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys)
        assert torch.equal(mine.values, theirs.values)
    audio = (inputs["input_ids"] == AUDIO).sum(1)
    assert all(layer.audio_tokens_per_sample == tuple(audio.tolist()) for layer in trace.layers)
    assert len(trace.layers) == LAYERS


# transformers itself cannot generate from a lone clip of one token (it takes the placeholder for an unexpanded one, and
# has dropped the mask of ones by then); `test_one_audio_token_generates` goes by embeddings.
@pytest.mark.parametrize("case", [case for case in NOTHING if case != "one audio token"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_nothing_removed_generates_as_the_plain_model(attention, case):
    model, (inputs, budget) = audio_model(attention), NOTHING[case]
    options = {"max_new_tokens": 5, "output_logits": True, "return_dict_in_generate": True}
    plain = model.generate(**inputs, **options)
    with strategy("weighted", budget=budget).apply(model):
        ours = model.generate(**inputs, **options)
    assert torch.equal(ours.sequences, plain.sequences)
    for mine, theirs in zip(ours.logits, plain.logits, strict=True):
        assert torch.equal(mine, theirs)


def test_one_audio_token_generates():
    model, inputs = audio_model(), batch(Sample((3, 5), (1,)))
    embeds, spans = embed(model, inputs)
    plain = model.generate(inputs_embeds=embeds, max_new_tokens=5)
    with strategy("weighted", budget=0.9).apply(model, spans=spans):
        assert torch.equal(model.generate(inputs_embeds=embeds, max_new_tokens=5), plain)


def test_generation_from_text_alone():
    model, inputs = text_model(), {"input_ids": torch.tensor([[5, 6, 7]])}
    plain = model.generate(**inputs, max_new_tokens=4)
    with strategy("weighted").apply(model, spans=torch.zeros(1, 3, dtype=torch.int64)):
        assert torch.equal(model.generate(**inputs, max_new_tokens=4), plain)


# ---- the model afterwards ----


def _state(model):
    hooks = [(name, kind, len(getattr(m, kind))) for name, m in model.named_modules() for kind in HOOKS]
    configs = (model.config, model.config.text_config, model.config.audio_config, model.model.language_model.config)
    return hooks, [c.to_dict() for c in configs], [c._attn_implementation for c in configs]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_as_before(name, attention):
    model, inputs = audio_model(attention), batch(*MANY)
    before, plain = _state(model), model(**inputs).logits
    method = strategy(name)
    with method.apply(model):
        model.generate(**inputs, max_new_tokens=2)
        assert _state(model) != before
    assert _state(model) == before
    assert torch.equal(model(**inputs).logits, plain)


class Boom(Exception):
    pass


@pytest.mark.parametrize("where", ["body", "mlp", "attention", "layer", "merger"])
def test_the_model_is_as_before_after_an_exception(where, monkeypatch):
    model, inputs = audio_model(), batch(*MANY)
    before, plain = _state(model), model(**inputs).logits
    method = strategy("weighted")

    def boom(*_args, **_kwargs):
        raise Boom

    def run():
        with method.apply(model):
            if where == "body":
                boom()
            layer = model.model.language_model.layers[2]
            with monkeypatch.context() as patch:
                if where == "merger":
                    patch.setattr(type(method.merger), "plan", boom)
                else:
                    target = {"mlp": layer.mlp, "attention": layer.self_attn, "layer": layer}[where]
                    patch.setattr(target, "forward", boom)
                model(**inputs)

    with pytest.raises(Boom):
        run()
    assert _state(model) == before
    assert torch.equal(model(**inputs).logits, plain)


def test_a_failed_pass_does_not_spoil_the_next():
    model, inputs = audio_model(), batch(*MANY)
    with strategy("weighted").apply(model):
        first = model(**inputs).logits
        with pytest.raises(ModelError):
            model(**inputs | {"attention_mask": torch.zeros_like(inputs["attention_mask"])})
        assert torch.equal(model(**inputs).logits, first)


def test_one_strategy_at_a_time():
    model = audio_model()
    before = _state(model)
    with strategy("weighted").apply(model):
        with pytest.raises(ModelError, match="already applied"), strategy("prune").apply(model):
            pass
        inside = _state(model)
        assert inside != before
    assert _state(model) == before
    with strategy("prune").apply(model):
        assert _state(model) == inside
    assert _state(model) == before


def test_a_refused_strategy_leaves_the_one_at_work_as_it_was():
    model, inputs = audio_model(), batch(*MANY)
    with strategy("weighted").apply(model):
        expected = model(**inputs).logits
    with strategy("weighted").apply(model):
        with pytest.raises(ModelError, match="already applied"), strategy("prune").apply(model):
            pass
        assert torch.equal(model(**inputs).logits, expected)


def test_two_models_at_once():
    first, second, inputs = audio_model(), audio_model("eager"), batch(ONE)
    with strategy("weighted").apply(first):
        alone = first(**inputs).logits
    with strategy("weighted").apply(first), strategy("prune").apply(second) as trace:
        assert torch.equal(first(**inputs).logits, alone)
        second(**inputs)
    assert trace.layers[-1].audio_tokens < 23


def test_the_strategy_must_fit_the_model():
    model = audio_model()
    before = _state(model)
    with (
        pytest.raises(StrategyError, match="layers 0 to 3"),
        strategy("weighted", layers={"name": "fixed", "layer": 9}).apply(model),
    ):
        pass
    assert _state(model) == before


def test_attention_outputs_are_untouched():
    """Attention maps and hidden states that a caller asks for are still given."""
    model, inputs = audio_model("eager"), batch(ONE)
    with strategy("weighted").apply(model) as trace:
        out = model(**inputs, output_attentions=True, output_hidden_states=True)
    widths = [layer.tokens_in_per_sample[0] for layer in trace.layers]
    assert [a.shape[-1] for a in out.attentions] == widths
    assert [h.shape[1] for h in out.hidden_states[:-1]] == widths


# ---- counts ----


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("name", NAMES)
def test_trace_tells_the_plan_and_the_cache(name, positions):
    model, method = audio_model(), strategy(name, positions=positions)
    clips, cached = (23, 11, 14, 17), method.site == "cache"
    with method.apply(model) as trace:
        for sample in MANY:
            cache = cache_of(model(**batch(sample), use_cache=True))
            assert [layer.kv_columns for layer in trace.layers] == cache_lengths(cache)
            assert cache.get_seq_length() == len(sample)
            assert [layer.layer for layer in trace.layers] == list(range(LAYERS))
            if not cached and method.then is None:
                assert [layer.kv_length for layer in trace.layers] == [x.tokens_in_per_sample[0] for x in trace.layers]
            for layer, after in zip(trace.layers, trace.layers[1:], strict=False):
                assert method.site == "input" or layer.tokens_out_per_sample == after.tokens_in_per_sample
            for layer in trace.layers:
                assert layer.tokens_out_per_sample[0] - layer.audio_tokens == sum(sample.text)
        cache = cache_of(model(**batch(*MANY), use_cache=True))
        assert cache_lengths(cache) == [layer.kv_columns for layer in trace.layers]
        if not cached and method.then is None:
            assert cache_lengths(cache) == [max(layer.tokens_in_per_sample) for layer in trace.layers]
    left, expected = list(clips), []
    for counts in removals(method, LAYERS, clips):
        left = [n - k for n, k in zip(left, counts, strict=True)]
        expected.append((left[0], left[1], 0, left[2] + left[3]))
    traced = [layer.audio_tokens_per_sample for layer in trace.layers]
    if cached:
        assert traced == [(23, 11, 0, 31)] * LAYERS
        text = [sum(sample.text) for sample in MANY]
        kept = [tuple(a + t for a, t in zip(audio, text, strict=True)) for audio in expected]
        assert [layer.kv_length_per_sample for layer in trace.layers] == kept
    elif method.merger.is_exact():
        assert traced == expected
    else:
        assert traced[1] >= expected[1]
        assert traced[0] == (23, 11, 0, 31)


@pytest.mark.parametrize("name", [n for n in NAMES if strategy(n).merger.is_exact()])
def test_a_token_budget_is_met_to_half_a_token(name):
    model = audio_model()
    for budget in (0.2, 0.35, 0.4):
        method = strategy(name, budget=budget)
        with method.apply(model) as trace:
            model(**batch(ONE))
        last = trace.layers[(method.schedule.exit_layer(1, LAYERS) or LAYERS) - 1]  # before all audio leaves
        left = last.kv_length - 12 if method.site == "cache" else last.audio_tokens
        assert abs(left - 23 * (1 - budget)) <= 0.5 + 1e-9


@pytest.mark.parametrize("name", ["weighted", "fastadasp-dense", "fastadasp-decay", "prune"])
def test_a_ratio_budget_cuts_as_the_released_code(name):
    model, method = audio_model(), strategy(name, budget="ratio=0.3")
    with method.apply(model) as trace:
        model(**batch(ONE))
    now = 23
    for ratio, layer in zip(layer_ratios(method, LAYERS), trace.layers, strict=True):
        now -= int(now * ratio)
        assert layer.audio_tokens == now


def test_later_layers_see_the_survivors_own_positions():
    """With `original`, pruning is the plain model on a sequence with holes; checked at every acting layer."""
    model, sample = audio_model(), ONE
    method = strategy("random-prune-decay", schedule="constant", budget=0.6)
    seen = {}
    handles = [
        layer.register_forward_pre_hook(
            lambda _m, args, kwargs, i=i: seen.__setitem__(
                i, (args[0], kwargs["position_ids"], kwargs["position_embeddings"])
            ),
            with_kwargs=True,
        )
        for i, layer in enumerate(model.model.language_model.layers)
    ]
    try:
        model(**batch(sample))
        full = dict(seen)
        with method.apply(model):
            reorder = [h for layer in model.model.language_model.layers for h in layer._forward_pre_hooks]
            assert len(reorder) == 2 * LAYERS
            for layer in model.model.language_model.layers:  # look after the engine has
                layer._forward_pre_hooks.move_to_end(next(iter(layer._forward_pre_hooks)))
            model(**batch(sample))
    finally:
        for handle in handles:
            handle.remove()
    states, positions, (cos, sin) = seen[2]
    kept = positions[0]
    assert 0 < len(kept) < len(sample)
    assert bool((kept[1:] > kept[:-1]).all())
    text = [i for i in range(len(sample)) if not 5 <= i < 28]
    assert set(text) <= set(kept.tolist())
    for index in (2, 3):
        _, ids, (cos, sin) = seen[index]
        assert torch.equal(cos[0], full[0][2][0][0, ids[0]])
        assert torch.equal(sin[0], full[0][2][1][0, ids[0]])
    assert set(seen[3][1][0].tolist()) < set(kept.tolist())
    assert states.shape[1] == len(kept)
