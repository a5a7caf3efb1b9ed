"""How a model under a strategy may be called: embeddings, masks, caches, other families."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import (
    MANY,
    ONE,
    Sample,
    audio_model,
    batch,
    embed,
    error,
    names_with_spans,
    strategy,
    strategy_names,
    text_model,
)
from transformers import DynamicCache

from fastadasp import ModelError
from fastadasp.upstream.names import cache_argument, cache_of

pytestmark = pytest.mark.usefixtures("no_grad")

NAMES = strategy_names()
WITH_SPANS = names_with_spans()
POSITIONS = ("original", "compact")


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("name", WITH_SPANS)
def test_embeddings_with_spans_are_as_input_ids(name, positions):
    model, inputs = audio_model(), batch(*MANY)
    embeds, spans = embed(model, inputs)
    mask = inputs["attention_mask"]
    method = strategy(name, positions=positions)
    with method.apply(model):
        by_ids = model(**inputs).logits
        tokens = model.generate(**inputs, max_new_tokens=4)[:, mask.shape[1] :]
    with method.apply(model, spans=spans):
        by_embeds = model(inputs_embeds=embeds, attention_mask=mask).logits
        assert torch.equal(model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=4), tokens)
        beams = model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=4, num_beams=2)
    assert torch.equal(by_ids, by_embeds)
    assert beams.shape == tokens.shape


@pytest.mark.parametrize("name", WITH_SPANS)
def test_a_decoder_alone_and_its_language_model(name):
    model, spans = text_model(), torch.zeros(2, 20, dtype=torch.int64)
    spans[0, 3:15], spans[1, 4:18] = 1, 1
    ids = torch.randint(2, 60, (2, 20), generator=torch.Generator().manual_seed(0))
    with strategy(name).apply(model, spans=spans) as trace:
        whole = model(input_ids=ids).logits
    with strategy(name).apply(model.model, spans=spans) as inner:
        states = model.model(inputs_embeds=model.model.embed_tokens(ids)).last_hidden_state
    assert error(model.lm_head(states), whole) <= 1e-6
    assert trace.layers == inner.layers


def test_wrong_spans():
    model, inputs = audio_model(), batch(ONE)
    embeds, spans = embed(model, inputs)
    for wrong in (spans[:, 1:], spans[0], spans.repeat(2, 1)):
        with strategy("weighted").apply(model, spans=wrong), pytest.raises(ModelError, match="spans has shape"):
            model(inputs_embeds=embeds)
    pieces = spans.clone()
    pieces[0, 10] = 0
    with strategy("weighted").apply(model, spans=pieces), pytest.raises(ModelError, match="several pieces"):
        model(inputs_embeds=embeds)


def test_embeddings_need_spans():
    model = audio_model()
    embeds, _ = embed(model, batch(ONE))
    with strategy("weighted").apply(model), pytest.raises(ModelError, match="spans="):
        model(inputs_embeds=embeds)
    with strategy("weighted").apply(text_model()), pytest.raises(ModelError, match="spans="):
        text_model()(input_ids=torch.tensor([[5, 6]]))
    with strategy("weighted").apply(text_model().model), pytest.raises(ModelError, match="spans="):
        text_model().model(input_ids=torch.tensor([[5, 6]]))


def test_a_prompt_with_one_placeholder_a_clip():
    model = audio_model()
    inputs = batch(Sample((5, 7), (1,)))
    inputs["feature_attention_mask"][:] = 1  # 50 audio tokens
    with strategy("weighted").apply(model), pytest.raises(ModelError, match="placeholder"):
        model(**inputs)


def test_ready_made_masks():
    model, inputs = audio_model(), batch(ONE)
    with strategy("weighted").apply(model):
        embeds, spans = embed(audio_model("eager"), inputs)
    ready = torch.zeros(1, 1, len(ONE), len(ONE))
    with strategy("weighted").apply(model, spans=spans), pytest.raises(ModelError, match="mask"):
        model(inputs_embeds=embeds, attention_mask=ready)


def test_a_mask_that_hides_audio():
    model, inputs = audio_model(), batch(ONE)
    inputs["attention_mask"][0, :8] = 0
    with strategy("weighted").apply(model), pytest.raises(ModelError, match="hides audio tokens of sample 0"):
        model(**inputs)


def test_a_mask_that_does_not_fit():
    model, inputs = audio_model(), batch(ONE)
    embeds, spans = embed(model, inputs)
    with strategy("weighted").apply(model, spans=spans), pytest.raises(ModelError, match="mask covers"):
        model(inputs_embeds=embeds, attention_mask=torch.ones(1, 50, dtype=torch.int64))


def test_a_cache_that_was_changed():
    model, inputs = audio_model(), batch(ONE)
    token = {"input_ids": torch.tensor([[5]])}
    with strategy("weighted").apply(model):
        for change in (lambda c: c.crop(-2), copy.deepcopy):
            cache = cache_of(model(**inputs, use_cache=True))
            changed = change(cache) or cache
            with pytest.raises(ModelError, match="cache holds other keys"):
                model(**token, **cache_argument(changed))
        with pytest.raises(ModelError, match="cache holds other keys"):
            model.generate(**inputs, max_new_tokens=6, prompt_lookup_num_tokens=2)


def test_another_model_family():
    class Other(torch.nn.Module):
        pass

    with pytest.raises(ModelError, match="not a transformers model"), strategy("weighted").apply(Other()):
        pass
    encoder = audio_model().model.audio_tower
    with pytest.raises(ModelError, match="no adapter"), strategy("weighted").apply(encoder):
        pass


def test_without_a_cache():
    model, inputs = audio_model(), batch(*MANY)
    with strategy("fastadasp-dense").apply(model) as trace:
        cached = model(**inputs, use_cache=True).logits
        layers = list(trace.layers)
        assert torch.equal(model(**inputs, use_cache=False).logits, cached)
        assert trace.layers == layers


@pytest.mark.parametrize("name", NAMES)
def test_a_prefilled_plain_cache(name):
    """A text turn before the strategy came: no text before the clip looks at it, so two turns are as one prompt."""
    if "text" in strategy(name).needs():
        pytest.skip("only the turn's own text is compared with its audio")
    model, sample = audio_model(), Sample((12, 7), (23,), seed=5)
    inputs = batch(sample)
    with strategy(name).apply(model):
        whole = model(**inputs).logits
    cache = DynamicCache(config=model.config.text_config)
    model(input_ids=inputs["input_ids"][:, :9], **cache_argument(cache), use_cache=True)
    rest = inputs | {"input_ids": inputs["input_ids"][:, 9:]}
    with strategy(name).apply(model):
        assert error(model(**rest, **cache_argument(cache)).logits[:, -1], whole[:, -1]) <= 1e-5
