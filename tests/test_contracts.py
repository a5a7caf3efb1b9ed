"""What the engine expects of transformers, on a tiny model: each test fails with what was expected and what is."""

from __future__ import annotations

import warnings

import pytest
import torch
from tiny import LAYERS, ONE, audio_model, batch, cache_lengths, strategy

from fastadasp.errors import ModelError
from fastadasp.upstream import contracts
from fastadasp.upstream.names import CACHE, cache_argument, cache_in, cache_of


@pytest.fixture
def unchecked():
    """The once-a-process check as if it had not run."""
    contracts.check_transformers.cache_clear()
    yield
    contracts.check_transformers.cache_clear()


def test_every_expectation_holds_here():
    assert list(contracts.faults()) == []


def test_hooks_find_the_cache_under_the_name_that_layers_get_it_by():
    model, names = audio_model(), []
    layer = model.model.language_model.layers[1]
    handle = layer.register_forward_pre_hook(lambda _m, _a, kwargs: names.append(sorted(kwargs)), with_kwargs=True)
    try:
        output = model(**batch(ONE), use_cache=True)
    finally:
        handle.remove()
    assert CACHE in names[0], f"expected layers to get the cache as {CACHE!r}, they get {names[0]}"
    assert cache_of(output) is not None, f"expected outputs to hold the cache as {CACHE!r}, found {list(output)}"
    assert cache_in(cache_argument(cache_of(output))) is cache_of(output)


def test_keys_really_go():
    model, inputs = audio_model(), batch(ONE)
    whole = cache_lengths(cache_of(model(**inputs, use_cache=True)))
    with strategy("cache", budget=0.5).apply(model):
        left = cache_lengths(cache_of(model(**inputs, use_cache=True)))
    assert whole == [len(ONE)] * LAYERS, f"expected {len(ONE)} keys in each layer of the plain model, found {whole}"
    assert left[0] == len(ONE), f"expected the first layer to keep its {len(ONE)} keys, found {left}"
    assert max(left[1:]) < len(ONE), f"expected eviction to remove keys of layers 1 to {LAYERS - 1}, found {left}"


def test_the_attention_interface_is_asked_for_each_layer():
    model, calls = audio_model(), []
    from fastadasp.engine import attention

    config = model.model.language_model.config
    modules = {
        layer.self_attn: lambda module, query, key, value, scale, mask: calls.append(
            (query.shape[2], key.shape[2], scale)
        )
        for layer in model.model.language_model.layers
    }
    attention.watch(calls, config, modules)
    try:
        model(**batch(ONE))
    finally:
        attention.unwatch(calls, config)
    assert [found[:2] for found in calls] == [(len(ONE), len(ONE))] * LAYERS, f"watchers were shown {calls}"
    assert config._attn_implementation == "sdpa"


def test_an_untested_release_is_named_once(unchecked, monkeypatch):
    monkeypatch.setattr(contracts.transformers, "__version__", "5.99.1")
    with pytest.warns(UserWarning, match=r"5\.99\.1 was not tested .* 5\.17 to 5\.24"):
        contracts.check_transformers()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        contracts.check_transformers()


def test_an_expectation_that_does_not_hold_stops_before_the_model_runs(unchecked, monkeypatch):
    monkeypatch.setattr(contracts, "CACHE_NAMES", ("keys_of_old",))
    model = audio_model()
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran")).remove()
    with (
        pytest.raises(
            ModelError, match=r"expected LlamaModel.forward to take .* pip install 'transformers>=5.17,<5.25'"
        ),
        strategy("weighted").apply(model),
    ):
        model(**batch(ONE))
    assert not model.model.language_model._forward_pre_hooks


def test_eviction_without_a_cache_is_refused():
    with (
        torch.no_grad(),
        strategy("cache").apply(audio_model()),
        pytest.raises(fastadasp_error(), match="evict keys and values in layer 1, but the model runs without"),
    ):
        audio_model()(**batch(ONE), use_cache=False)


def test_a_layer_that_is_left_out_is_an_error():
    """A reduction that was planned and did not happen is never silent."""
    model = audio_model()
    decoder = model.model.language_model
    layers, limit = decoder.layers, decoder.config.num_hidden_layers
    try:
        with strategy("average").apply(model):
            decoder.config.num_hidden_layers = 2
            with pytest.raises(ModelError, match=r"in layer\(s\) 2, 3 .* were not removed"):
                model(**batch(ONE))
    finally:
        decoder.layers, decoder.config.num_hidden_layers = layers, limit


def fastadasp_error() -> type[Exception]:
    from fastadasp.errors import StrategyError

    return StrategyError
