"""Sites: before a layer, in its cache, and a second stage in the cache after a first."""

from __future__ import annotations

import pytest
import torch
from tiny import LAYERS, ONE, audio_model, batch, error, strategy

import fastadasp
from fastadasp import StrategyError
from fastadasp.upstream.names import cache_argument, cache_of

pytestmark = pytest.mark.usefixtures("no_grad")


def test_each_head_evicts_what_its_own_queries_look_at_least():
    """Against the attention matrices themselves; two query heads share each key/value head."""
    model, sample = audio_model("eager"), ONE
    plain = model(**batch(sample), use_cache=True, output_attentions=True)
    attentions = plain.attentions if len(plain.attentions) == LAYERS else plain.attentions[-LAYERS:]
    with strategy("cache", schedule="single-shot", budget=0.6).apply(model):
        ours = model(**batch(sample), use_cache=True)
    assert torch.equal(ours.logits, plain.logits)
    for layer in range(1, LAYERS):
        received = attentions[layer][0].sum(1).view(2, 2, -1).sum(1)
        for head in range(2):
            audio = received[head, 5:28].topk(9).indices.sort().values + 5
            kept = torch.cat([torch.arange(5), audio, torch.arange(28, len(sample))])
            mine, theirs = (cache_of(out).layers[layer] for out in (ours, plain))
            assert torch.equal(mine.keys[0, head], theirs.keys[0, head, kept])
            assert torch.equal(mine.values[0, head], theirs.values[0, head, kept])
            assert mine.keys.untyped_storage().nbytes() < theirs.keys.untyped_storage().nbytes()


WHERE = {
    "averages in a cache": ({"site": "cache"}, "`site`: merger 'runs' cannot act at 'cache'"),
    "a second stage at a block": ({"then": {"site": "block"}}, "`then`: a second stage acts at the site cache"),
    "a second stage with a fault": ({"then": {"select": "nothing"}}, "`then`: recipe 'then': `select`: unknown scorer"),
    "a second stage solved for a prompt": ({"then": {"budget": "kv=0.3"}}, "`then.budget` is kv=0.3: the second stage"),
}


@pytest.mark.parametrize("case", WHERE)
def test_sites_that_cannot_work(case):
    changes, message = WHERE[case]
    if "then" in changes:
        stage = {"select": "random", "merger": "drop", "schedule": "single-shot", "layers": "fixed"}
        changes = {"then": stage | changes["then"]}
    with pytest.raises(StrategyError) as caught:
        fastadasp.load_strategy("weighted", **changes)
    assert message in str(caught.value)


def test_there_is_no_attention_before_the_first_layer():
    method = strategy("input", layers={"name": "fixed", "layer": 0})
    with (
        pytest.raises(
            StrategyError, match="looks at attention, but before layer 0 there is none yet: start at layer 1"
        ),
        method.apply(audio_model()),
    ):
        pass


def test_a_second_stage_is_changed_by_dotted_names():
    method = fastadasp.load_strategy("weighted+h2o", **{"then.budget": "ratio=0.25", "layers.layer": 0})
    assert (str(method.then.budget), method.layers.layer, method.then.merger.name) == ("ratio=0.25", 0, "drop")
    assert fastadasp.Strategy.from_dict(method.to_dict()) == method


def test_a_second_turn_after_keys_of_the_first_layer_went():
    """The first layer then holds fewer keys than tokens went by; the next turn still stands at its own positions."""
    model, inputs = audio_model(), batch(ONE)
    more = {"input_ids": torch.tensor([[7, 8, 9]])}
    for name in ("first-cache", "before"):
        with strategy(name).apply(model):
            cache = cache_of(model(**inputs, use_cache=True))
            later = [model(input_ids=more["input_ids"][:, i : i + 1], **cache_argument(cache)) for i in range(3)]
            assert cache.get_seq_length() == len(ONE) + 3
        with strategy(name).apply(model):
            again = cache_of(model(**inputs, use_cache=True))
            whole = model(**more, **cache_argument(again)).logits
        assert error(torch.cat([out.logits for out in later], 1), whole) <= 1e-5
