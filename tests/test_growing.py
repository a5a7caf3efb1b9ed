"""Caches that evict again while an answer grows: the same padded, with beams and alone, and budgets that stay met."""

from __future__ import annotations

import warnings

import pytest
import torch
from family_models import FAMILIES, family_model, installed, padded, prompt
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cache_methods import CACHE
from test_evicting import SHAPE
from tiny import LAYERS, MANY, ONE, Sample, audio_model, batch, cache_lengths, error, greedy, strategy
from transformers import StaticCache

import fastadasp
from fastadasp import ModelError, StrategyError, testing
from fastadasp.engine.cache import GrowingLayer, state_of
from fastadasp.engine.session import attention_window
from fastadasp.models.lookup import adapter_for
from fastadasp.upstream.names import cache_argument, cache_of

pytestmark = pytest.mark.usefixtures("no_grad")

WAYS = {"audio": {"kv": 0.3}, "any": {"tokens": 0.5}}
"""A budget for each choice of keys that an answer makes go again."""
STEPS = 10


def growing(name, evicts="any", every=3, **changes):
    return fastadasp.load_strategy(name, **{"evicts": evicts, "every": every, "budget": WAYS[evicts], **changes})


def tokens_fed(rows, steps=STEPS):
    return [torch.full((rows,), 2 + (7 * i) % 60) for i in range(steps)]


def decoded(model, inputs, steps=STEPS):
    """Logits after the prompt and each token fed, and the cache."""
    seen = []
    hook = model.register_forward_hook(lambda _m, _a, out: seen.append(cache_of(out)))
    try:
        logits = torch.stack(greedy(model, inputs, steps, tokens_fed(len(inputs["input_ids"]), steps)), 1)
    finally:
        hook.remove()
    return logits, seen[-1]


@pytest.mark.parametrize("evicts", WAYS)
@pytest.mark.parametrize("name", CACHE)
def test_an_answer_in_a_padded_batch_is_as_alone(name, evicts):
    model, method = audio_model(), growing(name, evicts)
    with warnings.catch_warnings(), method.apply(model) as trace:
        warnings.simplefilter("ignore")  # h2o leaves layer 0 alone, so audio alone is soon too little
        together, cache = decoded(model, batch(*MANY))
        held = [tuple(counts) for counts in trace.held]
        if not method.merger.across_heads:
            assert cache_lengths(cache) == [max(counts) for counts in held]
        for row, sample in enumerate(MANY):
            alone, _ = decoded(model, batch(sample))
            assert error(together[row], alone[0]) <= 1e-4
            if sample.clips:
                assert [counts[row] for counts in held] == [counts[0] for counts in trace.held]
            else:
                assert {counts[row] for counts in held} == {len(sample) + STEPS}


@pytest.mark.parametrize("name", ["snapkv", "adakv", "h2o", "expected-attention"])
def test_the_score_of_a_beam_is_that_of_its_tokens(name):
    """What beams know of their keys goes along when they are reordered: fed alone, the tokens get the same scores."""
    model, steps, samples = audio_model(), 9, MANY[:3]  # transformers mixes up the clips of a prompt with two
    with growing(name, every=2).apply(model):
        out = model.generate(
            **batch(*samples), max_new_tokens=steps, num_beams=4, num_return_sequences=4, do_sample=False,
            length_penalty=0.0, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        for place in range(0, 12, 3):
            said = out.sequences[place, -steps:]
            given = batch(samples[place // 4])
            logits = greedy(model, given, steps - 1, [token.view(1) for token in said])
            score = sum(float(x[0].log_softmax(0)[t]) for x, t in zip(logits, said, strict=True))
            assert score == pytest.approx(float(out.sequences_scores[place]), abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(
    text=st.tuples(st.integers(2, 9), st.integers(1, 9)),
    clip=st.integers(20, 40),
    budget=st.floats(0.15, 0.5),
    evicts=st.sampled_from(["audio", "any"]),
    every=st.integers(1, 5),
    steps=st.integers(1, 12),
)
def test_a_budget_stays_met(text, clip, budget, evicts, every, steps):
    """After every round the cache holds what the budget of the prompt and the answer so far says, and never less."""
    sample, model = Sample(text, (clip,), seed=clip), audio_model()
    method = growing("knorm", evicts, every, budget={"kv": budget})
    with method.apply(model) as trace:
        _, cache = decoded(model, batch(sample), steps)
    rounds = steps // every * every
    asked = method.solve(SHAPE, sum(text) + rounds, [clip], nearest=True).survivors[0]
    rest = steps - rounds + (sum(text) + rounds if evicts == "audio" else 0)
    assert cache_lengths(cache) == [n + rest for n in asked]
    if steps >= every:
        assert [counts[0] for counts in trace.held] == cache_lengths(cache)
    whole = len(sample) + rounds
    assert (
        abs((sum(asked) + LAYERS * (rest - steps + rounds)) / (LAYERS * whole) - (1 - budget)) <= 0.51 / whole + 0.002
    )


def first_keys(model, inputs, steps):
    """Keys of layer 0 of every token, prompt and answer, which no eviction changes: [heads, tokens, head_dim]."""
    return decoded(model, inputs, steps)[1].layers[0].keys[0]


def kept_places(cache, every_key):
    """By head, which tokens layer 0 holds."""
    distance = (cache.layers[0].keys[0].unsqueeze(2) - every_key.unsqueeze(1)).norm(dim=-1)
    assert float(distance.amin(2).max()) < 1e-5
    return distance.argmin(2).tolist()


def test_streaming_llm_by_hand():
    """35 tokens, of which 17 go: the first 4 and the last 14 stay. After 4 tokens more 20 of 39 stay, and so on."""
    model, inputs = audio_model(), batch(ONE)
    plain = first_keys(model, inputs, 9)
    for steps, kept in ((0, [*range(4), *range(21, 35)]), (3, [*range(4), *range(21, 38)])):
        with growing("streaming-llm", every=4).apply(model):
            assert kept_places(decoded(model, inputs, steps)[1], plain[:, : 35 + steps]) == [kept, kept]
    for steps, count in ((4, 20), (8, 22), (9, 22)):
        extra = steps % 4
        kept = [*range(4), *range(35 + steps - extra - (count - 4), 35 + steps)]
        with growing("streaming-llm", every=4).apply(model):
            assert kept_places(decoded(model, inputs, steps)[1], plain[:, : 35 + steps]) == [kept, kept]


def test_h2o_adds_up_over_the_answer():
    """Against a plain loop over tokens: what each key has received so far decides, and half of what stays is recent."""
    model, inputs, steps = audio_model("eager"), batch(ONE), 9
    layer = model.model.language_model.layers[0].self_attn
    seen = []
    from fastadasp.engine import growing as module

    plain = first_keys(model, inputs, steps)
    attention = module.GrowingPass.see

    def see(self, index, query, key, value, scale):
        if index == 0:
            seen.append(query[0])
        attention(self, index, query, key, value, scale)

    changes = {"layers.layer": 0, "select.recent": 0.5}
    with pytest.MonkeyPatch.context() as patch, growing("h2o", every=3, **changes).apply(model):
        patch.setattr(module.GrowingPass, "see", see)
        cache = decoded(model, inputs, steps)[1]
    ours = kept_places(cache, plain)

    caught = []
    hook = layer.q_proj.register_forward_hook(lambda _m, _a, out: caught.append(out))
    full = model(**inputs, output_attentions=True).attentions[0][0]
    hook.remove()
    groups = full.shape[0] // 2
    for head in range(2):
        mine = slice(head * groups, (head + 1) * groups)
        received = dict(enumerate(full[mine].sum((0, 1)).tolist()))

        def forget(received, total):
            kept = int(total * 0.5 + 0.5)
            recent = sorted(received)[-(kept // 2) :]
            heavy = sorted((t for t in received if t not in recent), key=lambda t: -received[t])
            return {t: received[t] for t in sorted([*recent, *heavy[: kept - len(recent)]])}

        received = forget(received, 35)
        for step in range(steps):
            received[35 + step] = 0.0
            at = list(received)
            logits = seen[step][mine, 0] @ plain[head, at].T * layer.scaling
            for t, weight in zip(at, logits.softmax(1).sum(0).tolist(), strict=True):
                received[t] += weight
            if (step + 1) % 3 == 0:
                received = forget(received, 35 + step + 1)
        assert ours[head] == list(received)


@pytest.mark.parametrize("name", ["snapkv", "adakv"])
def test_turns_of_text_and_of_sound(name):
    """Text that follows counts as the answer does; a second recording is a prompt of its own."""
    model, inputs = audio_model(), batch(ONE)
    more = batch(Sample((4, 3), (16,), seed=9))
    with growing(name, every=4).apply(model) as trace:
        out = model(**inputs, use_cache=True)
        out = model(input_ids=torch.full((1, 6), 7), **cache_argument(cache_of(out)), use_cache=True)
        assert [counts[0] for counts in trace.held] == [21] * LAYERS  # half of 41
        model(**{**more, "attention_mask": torch.ones(1, 41 + 23)}, **cache_argument(cache_of(out)), use_cache=True)
        assert [layer.kv_length for layer in trace.layers] == [21 + 12] * LAYERS
        out = model(
            input_ids=torch.full((1, 4), 7),
            attention_mask=torch.ones(1, 68),
            **cache_argument(cache_of(out)),
            use_cache=True,
        )
        assert out.logits.isfinite().all()
        assert [counts[0] for counts in trace.held] == [21 + 14] * LAYERS  # of the later prompt's 27


def test_a_second_stage_evicts_again():
    model = audio_model()
    method = strategy("average+cache").replace(**{"then.evicts": "any", "then.every": 3})
    with method.apply(model) as trace:
        together, _ = decoded(model, batch(*MANY))
        held = [tuple(counts) for counts in trace.held]
        for row, sample in enumerate(MANY):
            assert error(together[row], decoded(model, batch(sample))[0][0]) <= 1e-4
            if sample.clips:
                seen = [layer.tokens_in_per_sample[0] for layer in trace.layers]
                for layer in (2, 3):
                    whole = seen[layer] + 9
                    assert held[layer][row] == whole - int(0.4 * whole + 0.5) + 1


def test_nothing_is_kept_in_mind_unless_it_is_asked_for():
    model = audio_model()
    for every in (None, 3):
        with growing("snapkv", every=every).apply(model):
            cache = decoded(model, batch(*MANY))[1]
        grows = [isinstance(layer, GrowingLayer) for layer in cache.layers]
        assert grows == [every is not None] * LAYERS
        assert (state_of(cache).growth is None) == (every is None)


@pytest.mark.parametrize("family", installed())
def test_every_family(family):
    """Padded and with beams, each by one of the methods in turn; layers with a sliding window are refused."""
    name = CACHE[list(FAMILIES).index(family) % len(CACHE)]
    model = family_model(family)
    texts = ((5, 6), (3, 4))
    prompts = [prompt(family, *one) for one in texts]
    inputs = padded(*prompts)
    method = growing(name, every=2)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    if attention_window(adapter_for(model).decoder(model)) is not None:
        with (
            method.apply(model),
            pytest.raises(ModelError, match=r"layers with a sliding window, as .*leave `every` out"),
        ):
            model.generate(**inputs, **options)
        return
    with method.apply(model):
        for beams in (1, 2):
            together = model.generate(**inputs, **options, num_beams=beams)[:, -5:]
            for row, one in enumerate(prompts):
                alone = model.generate(**one, **options, num_beams=beams)[0, -5:]
                assert together[row].tolist() == alone.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evicts": "any", "every": 0}, "`every` is 0"),
        ({"budget": "kv=0.3", "select": "text-similarity"}, "need text, which is not known while an answer grows"),
        ({"site": "block"}, "`every` lets a cache evict again, but the recipe acts at the site 'block'"),
    ],
)
def test_recipes_that_cannot_evict_again(changes, message):
    with pytest.raises(StrategyError, match=message):
        fastadasp.load_strategy("h2o", **{"every": 2, **changes})


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0.5, r"the budget 0.5 counts audio tokens, of which .* take a budget in KV bytes \(kv=0.5\)"),
        ("ratio=0.5", "the budget ratio=0.5 counts audio tokens"),
        ("flops=0.3", "the budget flops=0.3 does not speak of keys"),
    ],
)
def test_budgets_that_an_answer_does_not_change_are_refused(budget, message):
    method = fastadasp.load_strategy("h2o", every=2, budget=budget)
    with pytest.raises(StrategyError, match=message):
        method.apply(audio_model()).__enter__()


def test_static_caches_are_refused():
    model = audio_model()
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=60)
    with (
        growing("knorm").apply(model),
        pytest.raises(ModelError, match="which a static cache, as for compiled decoding"),
    ):
        model(**batch(ONE), **cache_argument(cache), use_cache=True)


def test_scorers_of_hidden_states_are_refused_at_the_prompt():
    method = growing("h2o", select={"name": "isolation", "of": "hidden"})
    with (
        method.apply(audio_model()),
        pytest.raises(StrategyError, match="looks at hidden states cannot be asked again"),
    ):
        audio_model()(**batch(ONE), use_cache=True)


def test_an_answer_that_is_too_long_for_its_budget_is_told_once():
    model = audio_model()
    said = pytest.warns(UserWarning, match=r"strategy 'knorm': .* budget kv=0.6 cannot be met any more")
    with growing("knorm", "audio", 2, budget="kv=0.6").apply(model) as trace, said as told:
        decoded(model, batch(ONE), 16)
    assert len([one for one in told if "cannot be met" in str(one.message)]) == 1
    assert [counts[0] for counts in trace.held] == [12 + 16 + 1] * LAYERS  # text, answer and one audio key


@pytest.mark.parametrize("name", ["h2o", "adakv"])
def test_the_contract_of_a_recipe_that_evicts_again(name):
    testing.check_strategy(growing(name, every=2))
