"""A padded batch gives each sample what it gets alone; decoding, beams, sampling and later turns go on from there."""

from __future__ import annotations

import pytest
import torch
from tiny import MANY, ONE, Sample, audio_model, batch, cache_lengths, error, greedy, strategy, strategy_names

from fastadasp import ModelError
from fastadasp.upstream.names import cache_argument, cache_of

pytestmark = pytest.mark.usefixtures("no_grad")

TOLERANCE = 1e-5
NAMES = strategy_names()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["original", "even", "compact"])
@pytest.mark.parametrize("name", NAMES)
def test_padded_batch_is_each_sample_alone(name, positions, side):
    attention = "eager" if side == "right" and positions == "compact" else "sdpa"
    model, method = audio_model(attention), strategy(name, positions=positions)
    with method.apply(model) as trace:
        together = greedy(model, batch(*MANY, side=side), 8)
        layers = list(trace.layers)
        tokens = [step.argmax(-1) for step in together]
        for row, sample in enumerate(MANY):
            forced = [step[row : row + 1] for step in tokens]
            alone = greedy(model, batch(sample), 8, forced)
            for both, one in zip(together, alone, strict=True):
                assert error(both[row], one[0]) <= TOLERANCE
            for whole, single in zip(layers, trace.layers, strict=True):
                assert whole.audio_tokens_per_sample[row] == single.audio_tokens
                assert whole.kv_length_per_sample[row] == single.kv_length
    assert any(layer.kv_length_per_sample[0] < len(ONE) for layer in layers)


@pytest.mark.parametrize("positions", ["original", "even", "compact"])
@pytest.mark.parametrize("name", NAMES)
def test_generate_on_a_left_padded_batch(name, positions):
    model, inputs = audio_model(), batch(*MANY)
    with strategy(name, positions=positions).apply(model):
        together = model.generate(**inputs, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :]
        for row, sample in enumerate(MANY):
            alone = model.generate(**batch(sample), max_new_tokens=8)[0, len(sample) :]
            assert torch.equal(together[row], alone)


def test_the_decoded_tokens_follow_the_reduction():
    """The sequence of a reduced prompt differs from the plain model's: the tests above compare something."""
    model, inputs = audio_model(), batch(ONE)
    plain = model(**inputs).logits[:, -1]
    for name in NAMES:
        method = strategy(name, budget="tokens=0.4")
        with method.apply(model):
            assert method.site == "cache" or error(model(**inputs).logits[:, -1], plain) > 1e-3


@pytest.mark.parametrize("name", ["weighted", "fastadasp-dense", "prune", "a-tome-skip"])
def test_beam_search(name):
    model, inputs = audio_model(), batch(*MANY)
    with strategy(name).apply(model):
        together = model.generate(**inputs, num_beams=3, max_new_tokens=6, num_return_sequences=2)
        together = together[:, inputs["input_ids"].shape[1] :]
        for row, sample in enumerate(MANY):
            alone = model.generate(**batch(sample), num_beams=3, max_new_tokens=6, num_return_sequences=2)
            assert torch.equal(together[2 * row : 2 * row + 2], alone[:, len(sample) :])


def test_beam_search_scores_are_those_of_the_sequences():
    """A beam's score is the sum of the log-probabilities that its tokens get when they are decoded one by one."""
    model = audio_model()
    with strategy("weighted").apply(model):
        options = {"num_beams": 3, "length_penalty": 0.0, "output_scores": True, "return_dict_in_generate": True}
        best = model.generate(**batch(ONE), max_new_tokens=5, **options)
        tokens = best.sequences[0, len(ONE) :]
        logits = greedy(model, batch(ONE), 4, [token.view(1) for token in tokens])
        total = sum(step.log_softmax(-1)[0, token] for step, token in zip(logits, tokens, strict=True))
    assert float(total) == pytest.approx(float(best.sequences_scores[0]), rel=1e-4)


def test_sampling_repeats_with_a_seed():
    model, inputs = audio_model(), batch(*MANY[:2])

    def sample(seed):
        torch.manual_seed(seed)
        with strategy("weighted").apply(model):
            return model.generate(**inputs, do_sample=True, max_new_tokens=6, num_return_sequences=3)

    first, again, other = sample(0), sample(0), sample(1)
    assert first.shape[0] == 6
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("positions", ["original", "even", "compact"])
def test_return_sequences_share_one_reduction(positions):
    """Copies of a row made by generate are reduced alike, random noise included."""
    model = audio_model()
    with strategy("random", positions=positions).apply(model) as trace:
        model.generate(**batch(*MANY[:2]), do_sample=True, max_new_tokens=2, num_return_sequences=2, top_k=5)
        repeated = batch(*(s for s in MANY[:2] for _ in range(2)))
        logits = model(**repeated).logits[:, -1]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[2], logits[3])
    assert len(trace.layers[-1].audio_tokens_per_sample) == 4


def _rest(inputs, past, width):
    """A later chunk of the same rows: columns from `past` on, the mask of all."""
    return {"input_ids": inputs["input_ids"][:, past:width], "attention_mask": inputs["attention_mask"][:, :width]}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["average", "a-tome-fill", "a-tome-skip"])
def test_a_later_chunk_of_text_continues_from_the_cache(name, attention):
    """These recipes look only at the audio itself, so a prompt in two chunks is the prompt in one."""
    model = audio_model(attention)
    samples = (Sample((5, 9), (23,), seed=1), Sample((3, 9), (12,), seed=2))
    inputs = batch(*samples)
    width = inputs["input_ids"].shape[1]
    with strategy(name).apply(model):
        whole = model(**inputs, use_cache=True)
        head = {k: v[:, : width - 5] if k in ("input_ids", "attention_mask") else v for k, v in inputs.items()}
        first = model(**head, use_cache=True)
        second = model(**_rest(inputs, width - 5, width), **cache_argument(cache_of(first)), use_cache=True)
    assert error(second.logits[:, -5:], whole.logits[:, -5:]) <= TOLERANCE
    assert cache_lengths(cache_of(second)) == cache_lengths(cache_of(whole))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["average", "a-tome-fill", "a-tome-skip"])
def test_a_clip_in_a_later_turn(name, attention):
    """Two turns with a clip each are the prompt with two clips."""
    model = audio_model(attention)
    samples = (Sample((3, 6, 5), (19, 16), seed=1), Sample((8, 6, 5), (11, 16), seed=2))
    inputs = batch(*samples)
    width = inputs["input_ids"].shape[1]
    cut = width - 5 - 16
    features = inputs["input_features"], inputs["feature_attention_mask"]
    with strategy(name).apply(model) as trace:
        whole = model(**inputs, use_cache=True)
        together = [layer.kv_length_per_sample for layer in trace.layers]
        first = model(
            input_ids=inputs["input_ids"][:, :cut],
            attention_mask=inputs["attention_mask"][:, :cut],
            input_features=features[0][::2],
            feature_attention_mask=features[1][::2],
            use_cache=True,
        )
        second = model(
            **_rest(inputs, cut, width),
            input_features=features[0][1::2],
            feature_attention_mask=features[1][1::2],
            **cache_argument(cache_of(first)),
            use_cache=True,
        )
        assert [layer.kv_length_per_sample for layer in trace.layers] == together
    assert error(second.logits[:, -5:], whole.logits[:, -5:]) <= TOLERANCE


@pytest.mark.parametrize("name", ["weighted", "fastadasp-decay", "prune", "random"])
def test_generate_continues_from_a_returned_cache(name):
    model, sample = audio_model(), ONE
    inputs = batch(sample)
    with strategy(name).apply(model):
        whole = model.generate(**inputs, max_new_tokens=8)
        first = model.generate(**inputs, max_new_tokens=4, return_dict_in_generate=True)
        second = model.generate(
            input_ids=first.sequences,
            attention_mask=torch.ones_like(first.sequences),
            **cache_argument(cache_of(first)),
            max_new_tokens=4,
        )
    assert torch.equal(whole, second)


@pytest.mark.parametrize("name", NAMES)
def test_a_later_turn_in_a_padded_batch_is_each_sample_alone(name):
    """Every recipe: [clip, text], a text turn of 4 tokens, in a batch and alone."""
    model = audio_model()
    turn = torch.tensor([[5, 6, 7, 8]])

    def run(inputs):
        mask, rows = inputs["attention_mask"], inputs["input_ids"].shape[0]
        first = model(**inputs, use_cache=True)
        mask = torch.nn.functional.pad(mask, (0, 4), value=1)
        return model(
            input_ids=turn.expand(rows, -1), attention_mask=mask, **cache_argument(cache_of(first)), use_cache=True
        ).logits[:, -1]

    with strategy(name).apply(model):
        together = run(batch(*MANY))
        for row, sample in enumerate(MANY):
            assert error(together[row], run(batch(sample))[0]) <= TOLERANCE


@pytest.mark.parametrize("positions", ["original", "even", "compact"])
def test_right_padding_without_position_ids(positions):
    """Positions then count padding too; survivors still end at the sample's own last token."""
    model = audio_model()

    def run(inputs):
        lengths = inputs["attention_mask"].sum(1, keepdim=True)
        cache = cache_of(model(**inputs, use_cache=True))
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        token = torch.full_like(lengths, 5)
        return model(input_ids=token, attention_mask=mask, position_ids=lengths, **cache_argument(cache)).logits[:, -1]

    with strategy("fastadasp-dense", positions=positions).apply(model):
        together = run(batch(*MANY, side="right"))
        for row, sample in enumerate(MANY):
            assert error(together[row], run(batch(sample))[0]) <= TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_of_one_token_beside_longer_ones(name):
    model, short = audio_model(), Sample((3, 5), (1,), seed=8)
    with strategy(name).apply(model) as trace:
        together = greedy(model, batch(ONE, short), 3)
        leaves = strategy(name).schedule.exit_layer(1, 4) or 4  # one token stays, unless all audio leaves in the end
        assert [layer.audio_tokens_per_sample[1] for layer in trace.layers] == [1] * leaves + [0] * (4 - leaves)
        alone = greedy(model, batch(short), 3, [step.argmax(-1)[1:] for step in together])
    plain = greedy(model, batch(short), 3, [step.argmax(-1)[1:] for step in together])
    for both, one, untouched in zip(together, alone, plain, strict=True):
        assert leaves < 4 or torch.equal(one, untouched)
        assert error(both[1], one[0]) <= TOLERANCE


def test_a_cache_repeated_after_the_prompt():
    """As beams that split only after the prompt: each copy of a row goes on with the row's keys and padding."""
    model, inputs = audio_model(), batch(*MANY[:2])
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
    token = torch.tensor([[5], [6]])
    with strategy("weighted").apply(model):
        cache = cache_of(model(**inputs, use_cache=True))
        once = model(input_ids=token, attention_mask=mask, **cache_argument(cache)).logits
        cache = cache_of(model(**inputs, use_cache=True))
        cache.batch_repeat_interleave(3)
        copies = [x.repeat_interleave(3, dim=0) for x in (token, mask)]
        many = model(input_ids=copies[0], attention_mask=copies[1], **cache_argument(cache)).logits
        assert error(many, once.repeat_interleave(3, dim=0)) <= TOLERANCE
        cache = cache_of(model(**inputs, use_cache=True))
        cache.batch_select_indices(torch.tensor([0]))
        with pytest.raises(ModelError, match="only be repeated"):
            model(input_ids=token[:1], attention_mask=mask[:1], **cache_argument(cache))
