"""Static caches and compiled decoding: the answers of the dynamic cache, in less room, compiled as often."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import LAYERS, MANY, ONE, Sample, audio_model, batch, error, strategy
from torch._dynamo.utils import counters
from transformers import CompileConfig, StaticCache

from fastadasp import ModelError
from fastadasp.upstream.names import cache_argument, cache_of

pytestmark = pytest.mark.usefixtures("no_grad")

NAMES = ("weighted", "fastadasp-dense", "prune", "h2o", "weighted+h2o", "average-merge")
LONG = (Sample((5, 1, 1, 1, 7), (50, 50, 50, 50), seed=5), Sample((9, 1, 3), (50, 50), seed=6))


def answers(model: Any, inputs: dict[str, Any], **options: Any) -> Any:
    kinds = {"max_new_tokens": 6, "output_scores": True, "return_dict_in_generate": True}
    return model.generate(**inputs, **kinds, **options)


def assert_alike(one: Any, other: Any) -> None:
    assert torch.equal(one.sequences, other.sequences)
    assert max(error(a, b) for a, b in zip(one.scores, other.scores, strict=True)) <= 1e-4


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_the_dynamic_cache(name: str, attention: str, beams: int) -> None:
    model = audio_model(attention)
    with strategy(name).apply(model):
        for prompts in ((ONE,), MANY):
            inputs = batch(*prompts)
            dynamic = answers(model, inputs, num_beams=beams)
            assert_alike(answers(model, inputs, num_beams=beams, cache_implementation="static"), dynamic)


@pytest.mark.parametrize("name", NAMES)
def test_layers_take_the_room_of_their_keys(name: str) -> None:
    model, inputs = audio_model(), batch(*LONG)
    tokens = inputs["input_ids"].shape[1]
    with strategy(name).apply(model) as trace:
        cache = StaticCache(model.config.text_config, tokens + 6)
        answers(model, inputs, **cache_argument(cache))
    for layer, kept in zip(cache.layers, trace.layers, strict=True):
        needed = kept.kv_length + 6
        assert needed <= layer.keys.shape[2] <= min(needed + 63, tokens + 6)
    assert sum(layer.keys.shape[2] for layer in cache.layers) < LAYERS * tokens


def test_called_by_hand_and_in_chunks() -> None:
    """The model itself, a text of several tokens after the prompt, a mask that is given or not."""
    model, inputs = audio_model(), batch(ONE)
    more = torch.tensor([[5, 9, 11]])
    with strategy("weighted").apply(model):
        found = []
        for cache in (None, StaticCache(model.config.text_config, len(ONE) + 10)):
            first = model(**inputs, **cache_argument(cache), use_cache=True)
            found.append(model(input_ids=more, **cache_argument(cache_of(first))).logits)
    assert error(*found) <= 1e-5


def test_a_prompt_that_is_not_shortened_leaves_the_cache_alone() -> None:
    model, text = audio_model(), batch(Sample((9,), seed=3))
    plain = model.generate(**text, max_new_tokens=4)
    cache = StaticCache(model.config.text_config, 20)
    with strategy("weighted").apply(model):
        assert torch.equal(model.generate(**text, max_new_tokens=4, **cache_argument(cache)), plain)
    assert {type(layer).__name__ for layer in cache.layers} == {"StaticLayer"}


def test_what_cannot_be_shortened() -> None:
    model, inputs = audio_model(), batch(ONE)

    def cache() -> StaticCache:
        return StaticCache(model.config.text_config, 2 * len(ONE))

    used = cache()
    with strategy("weighted").apply(model):
        model(**inputs, **cache_argument(used))
        with pytest.raises(ModelError, match="takes one prompt with audio"):
            model(**inputs | {"attention_mask": None}, **cache_argument(used))
        with pytest.raises(ModelError, match="make a new one"):
            used.reset()
        offloaded = cache()
        offloaded.offloading = True  # its own option asks for a stream, which torch with CUDA cannot make without a GPU
        with pytest.raises(ModelError, match="not offloaded"):
            model(**inputs, **cache_argument(offloaded))
    filled = cache()
    model(input_ids=torch.tensor([[5, 6]]), **cache_argument(filled))
    with strategy("weighted").apply(model), pytest.raises(ModelError, match="that is new"):
        model(**inputs | {"attention_mask": None}, **cache_argument(filled))


def test_decoding_compiles_as_often_as_without() -> None:
    """One graph for all prompts and strategies that fit the same room, and none for the plain model's next turn."""
    model = audio_model()
    compiled = CompileConfig(backend="eager", mode=None, fullgraph=True)
    compiled._compile_all_devices = True
    options = {"cache_implementation": "static", "compile_config": compiled}
    torch._dynamo.reset()
    counters.clear()
    graphs = []

    def check(inputs: dict[str, Any]) -> None:
        dynamic = answers(model, inputs)
        assert_alike(answers(model, inputs, **options), dynamic)
        graphs.append(counters["stats"]["unique_graphs"])

    one, other = batch(LONG[0]), batch(Sample((4, 1, 1, 1, 9), (50, 50, 50, 47), seed=7))
    check(one)
    for name in ("weighted", "fastadasp-dense"):
        with strategy(name).apply(model):
            check(one)
            check(other)
        with strategy(name, seed=1).apply(model):
            check(one)
        check(one)
    assert graphs == [1, 2, 2, 2, 2, 3, 3, 3, 3]
    torch._dynamo.reset()
