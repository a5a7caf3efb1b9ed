"""Which keys may go from a cache: the audio's alone, or any of the prompt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cache_methods import CACHE
from tiny import LAYERS, MANY, ONE, Sample, audio_model, batch, cache_lengths, error, greedy, strategy

import fastadasp
from fastadasp import ModelError, StrategyError, testing
from fastadasp.counts.shape import DecoderShape
from fastadasp.upstream.names import cache_of

pytestmark = pytest.mark.usefixtures("no_grad")

SHAPE = DecoderShape.of(audio_model().config.text_config)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CACHE)
def test_any_key_in_a_padded_batch_as_alone(name, side):
    """Logits of tokens fed after the prompt, and counts; a prompt without audio keeps every key."""
    model, method = audio_model(), fastadasp.load_strategy(name, evicts="any")
    forced = [torch.full((len(MANY),), token) for token in (5, 9, 3)]
    with method.apply(model) as trace:
        together = torch.stack(greedy(model, batch(*MANY, side=side), 3, forced), 1)
        kept = [layer.kv_length_per_sample for layer in trace.layers]
        for row, sample in enumerate(MANY):
            alone = torch.stack(greedy(model, batch(sample), 3, [one[:1] for one in forced]), 1)
            assert error(together[row], alone[0]) <= 1e-4
            if sample.clips:
                assert [n[row] for n in kept] == [layer.kv_length for layer in trace.layers]
                assert kept[-1][row] < len(sample)
            else:
                assert {n[row] for n in kept} == {len(sample)}


@pytest.mark.parametrize("name", CACHE)
def test_beams_with_any_key(name):
    model, options = audio_model(), {"max_new_tokens": 5, "num_beams": 3, "do_sample": False}
    with fastadasp.load_strategy(name, evicts="any").apply(model):
        together = model.generate(**batch(*MANY), **options)[:, -5:]
        for row, sample in enumerate(MANY):
            assert together[row].tolist() == model.generate(**batch(sample), **options)[0, -5:].tolist()


@pytest.mark.parametrize("name", ["expected-attention", "audiokv", "pyramidkv"])
def test_a_recipe_that_evicts_any_keeps_the_contract(name):
    testing.check_strategy(fastadasp.load_strategy(name, evicts="any"))


@settings(max_examples=25, deadline=None)
@given(
    text=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    clip=st.integers(4, 30),
    budget=st.floats(0.1, 0.8),
    kind=st.sampled_from(["tokens", "kv"]),
)
def test_a_budget_counts_every_key(text, clip, budget, kind):
    """From layer 0 on, a fraction of the tokens is the same fraction of the bytes, and the cache holds what is told."""
    sample, model = Sample(text, (clip,), seed=clip), audio_model()
    method = strategy("knorm", evicts="any", budget={kind: budget}, layers={"name": "fixed", "layer": 0})
    with method.apply(model) as trace:
        held = cache_lengths(cache_of(model(**batch(sample), use_cache=True)))
    assert held == [layer.kv_length for layer in trace.layers]
    assert abs(sum(held) / LAYERS - (1 - budget) * len(sample)) <= 1.0
    solved = method.solve(SHAPE, sum(text), [clip], nearest=True)
    assert [held] == [list(counts) for counts in solved.survivors]
    assert solved.kv_removed == pytest.approx(1 - sum(held) / (LAYERS * len(sample)))


def test_streaming_llm_of_the_whole_prompt_by_hand():
    """Of 35 tokens half stay: the first four and the last fourteen, whichever of them are audio."""
    model, inputs = audio_model(), batch(ONE)
    plain = cache_of(model(**inputs, use_cache=True))
    with fastadasp.load_strategy("streaming-llm", evicts="any").apply(model):
        ours = cache_of(model(**inputs, use_cache=True))
    stay = [0, 1, 2, 3, *range(35 - 14, 35)]
    for mine, theirs in zip(ours.layers, plain.layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys[:, :, stay])
        assert torch.equal(mine.values, theirs.values[:, :, stay])


def test_a_second_stage_may_take_text_too():
    """Layer 2 on holds 60 % of the tokens that its attention saw, of the whole prompt."""
    model = audio_model()
    method = strategy("average+cache")
    method = method.replace(**{"then.evicts": "any"})
    with method.apply(model) as trace:
        together = cache_of(model(**batch(*MANY), use_cache=True))
        counts = [layer.kv_length_per_sample for layer in trace.layers]
        seen = [layer.tokens_in_per_sample for layer in trace.layers]
        assert cache_lengths(together) == [layer.kv_columns for layer in trace.layers]
        for row, sample in enumerate(MANY):
            model(**batch(sample))
            assert [layer.kv_length for layer in trace.layers] == [n[row] for n in counts]
    for layer in range(LAYERS):
        for row, sample in enumerate(MANY):
            whole = seen[layer][row]
            expected = whole - int(0.4 * whole + 0.5) if layer >= 2 and sample.clips else whole
            assert abs(counts[layer][row] - expected) <= (layer >= 2)
    solved = method.solve(SHAPE, sum(ONE.text), ONE.clips)
    assert solved.kv_removed == pytest.approx(1 - sum(n[0] for n in counts) / (LAYERS * len(ONE)))


def test_recipes_without_the_choice_keep_their_hash():
    method = fastadasp.load_strategy("snapkv")
    assert "evicts" not in method.to_dict()
    assert method.replace(evicts="audio").content_hash() == method.content_hash()
    assert method.replace(evicts="any").content_hash() != method.content_hash()
    other = fastadasp.Strategy.from_dict(method.replace(evicts="any").to_dict())
    assert other.evicts == "any"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evicts": "everything"}, r"`evicts` is 'everything': .*'audio' or 'any'"),
        ({"evicts": "any", "site": "block"}, "`evicts` speaks of the keys in a cache, .*site 'block'"),
        ({"evicts": "any", "select": "text-similarity"}, "`evicts` = 'any' lets text go, too, .* need text"),
        ({"evicts": "any", "select": "encoder-attention"}, "`evicts` = 'any' .* need encoder, which says nothing"),
    ],
)
def test_what_cannot_be_evicted_is_refused(changes, message):
    with pytest.raises(StrategyError, match=message):
        fastadasp.load_strategy("h2o", **changes)


def test_every_key_cannot_leave():
    method = fastadasp.load_strategy("knorm", evicts="any", schedule="leaving")
    with pytest.raises(StrategyError, match=r"lets all that is left go at layer 3, .* every key of the prompt"):
        method.apply(audio_model()).__enter__()


def test_a_mask_with_holes_is_refused():
    inputs = batch(ONE, Sample((3, 4), (11,), seed=2))
    inputs["attention_mask"][0, 2] = 0
    hidden = pytest.raises(ModelError, match=r"hides tokens inside a prompt, .* mask padding only")
    with fastadasp.load_strategy("knorm", evicts="any").apply(audio_model()), hidden:
        audio_model()(**inputs)


@pytest.mark.parametrize("name", ["fastv", "dart", "sparsevlm", "pyramid-drop"])
def test_a_second_stage_leaves_the_attention_that_the_next_layer_goes_by(name):
    """The first stage acts before a layer, on the attention of the layer whose cache the second has just evicted."""
    then = {"select": "received-attention", "merger": "drop", "schedule": "single-shot"}
    plain = fastadasp.load_strategy(name)
    start = plain.layers.start_layer(LAYERS)
    both = plain.replace(then=then | {"layers": {"name": "fixed", "layer": max(start - 1, 0)}})
    model, inputs = audio_model(), batch(ONE)
    with plain.apply(model) as trace:
        model(**inputs)
    expected = trace.removals
    with both.apply(model) as trace:
        model(**inputs)
    assert trace.removals == expected
    assert any(map(any, expected))
