"""Every family of audio LLM, with every built-in strategy: what a strategy promises holds in each."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from family_models import FAMILIES, family_model, installed, padded, prompt
from tiny import AUDIO, LAYERS, RECIPES, cache_lengths, error, greedy, strategy, strategy_names

import fastadasp
from fastadasp import ModelError
from fastadasp.counts.schedule import removals
from fastadasp.engine.session import attention_window
from fastadasp.inference.clips import decoder_inputs
from fastadasp.inference.load import LoadedModel
from fastadasp.models.lookup import adapter_for
from fastadasp.strategy import get_registry
from fastadasp.upstream.names import cache_argument, cache_of

pytestmark = pytest.mark.usefixtures("no_grad")

TOLERANCE = 1e-5
ENCODER = [name for name in strategy_names() if "encoder" in strategy(name).needs()]
"""Those that look at the audio encoder, which few families show."""
NAMES = [name for name in strategy_names() if name not in (*RECIPES, *ENCODER)]
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
TEXTS = ((5, 6, 7), (3, 4), (9,))
"""Prompts with two clips, one and none."""


def variant(family: str, name: str) -> tuple[str, str, str]:
    """An attention implementation, a side of padding and a position rule: over families and strategies, all of them."""
    turn = 3 * list(FAMILIES).index(family) + NAMES.index(name)
    return ("sdpa", "eager")[turn % 2], ("left", "right")[turn // 2 % 2], ("original", "compact")[turn // 4 % 2]


def state(model: Any) -> Any:
    hooks = [(name, kind, len(getattr(m, kind))) for name, m in model.named_modules() for kind in HOOKS]
    configs = [m.config for m in model.modules() if hasattr(m, "config")]
    return hooks, [c.to_dict() for c in configs], [c._attn_implementation for c in configs]


def test_every_usable_family_is_tested() -> None:
    usable = {e.value.name for e in get_registry().entries("model") if not e.value.refusal}
    others = {"qwen2", "qwen3", "llama", "qwen2_5_omni", "qwen3_omni_moe"}  # text alone, and thinkers with talkers
    assert usable - others - {"wavllm"} == set(FAMILIES)  # which takes one clip a prompt: test_convert_wavllm.py


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", installed())
def test_the_model_is_as_before(family: str, attention: str) -> None:
    model, inputs = family_model(family, attention), padded(*(prompt(family, *texts) for texts in TEXTS))
    before, plain = state(model), model(**inputs).logits
    with strategy("weighted").apply(model):
        model(**inputs)
        assert state(model) != before
    assert state(model) == before
    assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", installed())
def test_nothing_removed_is_the_plain_model(family: str, name: str) -> None:
    attention, _, positions = variant(family, name)
    model, inputs = family_model(family, attention), prompt(family, *TEXTS[0])
    plain = model(**inputs, use_cache=True)
    method = strategy(name, positions=positions, budget="ratio=0.001")
    if method.then is not None:
        method = method.replace(**{"then.budget": "ratio=0.001"})
    if method.schedule.exit_layer(1, LAYERS) is not None:  # which removes all in the end, whatever the budget
        method = method.replace(schedule="single-shot")
    with method.apply(model) as trace:
        ours = model(**inputs, use_cache=True)
    assert torch.equal(ours.logits, plain.logits)
    for mine, theirs in zip(cache_of(ours).layers, cache_of(plain).layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys)
        assert torch.equal(mine.values, theirs.values)
    assert [layer.audio_tokens for layer in trace.layers] == [2 * FAMILIES[family].tokens] * LAYERS
    assert torch.equal(model(**inputs).logits, plain.logits)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", installed())
def test_counts_are_as_planned_and_text_and_clips_stay_apart(family: str, name: str) -> None:
    attention, side, positions = variant(family, name)
    model, method = family_model(family, attention), strategy(name, positions=positions)
    inputs = padded(*(prompt(family, *texts) for texts in TEXTS), side=side)
    with method.apply(model) as trace:
        trace.keep_assignment = True
        cache = cache_of(model(**inputs, use_cache=True))
    assert cache_lengths(cache) == [layer.kv_columns for layer in trace.layers]
    if method.site != "cache" and method.merger.is_exact():
        count = FAMILIES[family].tokens
        left = torch.tensor([count] * 3)
        for counts, layer in zip(removals(method, LAYERS, (count,) * 3), trace.layers, strict=True):
            left -= torch.tensor(counts)
            assert layer.audio_tokens_per_sample == (int(left[0] + left[1]), int(left[2]), 0)
    if method.site == "cache":
        return
    for row, texts in enumerate(TEXTS):
        shown = inputs["attention_mask"][row].bool()
        ids, target = inputs["input_ids"][row, shown], trace.assignment[row, shown]
        text = target[ids != AUDIO]
        assert len(text) == sum(texts)
        assert bool((text[1:] > text[:-1]).all())  # each is still there, in order, alone
        clips = [set(piece.tolist()) - {-1} for piece in target.split(_runs(ids == AUDIO))]
        assert len(set.union(*clips)) == sum(map(len, clips))


@pytest.mark.parametrize("name", ENCODER)
@pytest.mark.parametrize("family", installed())
def test_the_encoder_is_seen_or_refused_by_name(family: str, name: str) -> None:
    """In families that show it a padded batch gives each sample what it gets alone."""
    model, samples = family_model(family, "sdpa"), [prompt(family, *texts) for texts in TEXTS]
    if adapter_for(model).encoder_attention(model) is None:
        with pytest.raises(ModelError, match=f"'{name}' looks at the attention of the audio encoder"):
            strategy(name).apply(model).__enter__()
        return
    with strategy(name).apply(model) as trace:
        together = model(**padded(*samples)).logits[:, -1]
        counts = [layer.audio_tokens_per_sample for layer in trace.layers]
        for row, sample in enumerate(samples):
            assert error(together[row], model(**sample).logits[0, -1]) <= 1e-4
            assert [layer.audio_tokens_per_sample[0] for layer in trace.layers] == [count[row] for count in counts]
    assert counts[-1][0] == (FAMILIES[family].tokens - FAMILIES[family].tokens // 2) * 2  # two recordings


def _runs(mask: torch.Tensor) -> list[int]:
    """Lengths of the runs of equal values."""
    return torch.unique_consecutive(mask, return_counts=True)[1].tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", installed())
def test_padded_batch_is_each_sample_alone(family: str, name: str) -> None:
    """Prefill and 8 decoding steps of unequal prompts with two clips, one and none."""
    attention, side, positions = variant(family, name)
    model, method = family_model(family, attention), strategy(name, positions=positions)
    if name == "knorm" and any(part.endswith("self_attn.k_norm") for part, _ in model.named_modules()):
        pytest.skip("keys are normalised before rotary embedding: their norms differ by rounding alone")
    prompts = [prompt(family, *texts, seed=i) for i, texts in enumerate(TEXTS)]
    with method.apply(model) as trace:
        together = greedy(model, padded(*prompts, side=side), 8)
        layers = list(trace.layers)
        for row, alone in enumerate(prompts):
            forced = [step.argmax(-1)[row : row + 1] for step in together]
            for both, one in zip(together, greedy(model, alone, 8, forced), strict=True):
                assert error(both[row], one[0]) <= TOLERANCE
            assert [layer.kv_length_per_sample[row] for layer in layers] == [layer.kv_length for layer in trace.layers]
    assert any(layer.kv_length_per_sample[0] < len(prompts[0]["input_ids"][0]) for layer in layers)


@pytest.mark.parametrize("name", ["weighted", "fastadasp-dense", "prune"])
@pytest.mark.parametrize("family", installed())
def test_generation(family: str, name: str) -> None:
    """Greedy, 5 beams, several sequences a prompt, sampling; a padded batch gives each what it gets alone."""
    model, prompts = family_model(family), [prompt(family, *texts, seed=3) for texts in ((5, 7), (3, 4))]
    inputs, width = padded(*prompts), 12 + FAMILIES[family].tokens
    options: tuple[dict[str, Any], ...] = ({}, {"num_beams": 5, "num_return_sequences": 2})
    with strategy(name).apply(model):
        for given in options:
            copies = given.get("num_return_sequences", 1)
            together = model.generate(**inputs, max_new_tokens=4, **given)[:, width:]
            for row, alone in enumerate(prompts):
                one = model.generate(**alone, max_new_tokens=4, **given)[:, alone["input_ids"].shape[1] :]
                assert torch.equal(together[copies * row : copies * (row + 1)], one)
        drawn = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            drawn.append(model.generate(**inputs, max_new_tokens=6, do_sample=True, num_return_sequences=3))
        assert drawn[0].shape == (6, width + 6)
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("name", NAMES)
def test_beams_of_every_strategy(name: str) -> None:
    """Each in a family, over the strategies in all of them; test_encoder_families.py has those that see the encoder."""
    families = installed()
    if name == "knorm":  # keys that are normalised differ in their norms by rounding alone
        families = [family for family in families if family in ("qwen2_audio", "voxtral", "glmasr")]
    family = families[NAMES.index(name) % len(families)]
    model, prompts = family_model(family), [prompt(family, *texts, seed=3) for texts in ((5, 7), (3, 4))]
    inputs, width = padded(*prompts), 12 + FAMILIES[family].tokens
    with strategy(name).apply(model):
        together = model.generate(**inputs, max_new_tokens=3, num_beams=3)[:, width:]
        for row, alone in enumerate(prompts):
            one = model.generate(**alone, max_new_tokens=3, num_beams=3)[0, alone["input_ids"].shape[1] :]
            assert torch.equal(together[row], one)


@pytest.mark.parametrize("family", installed())
def test_a_returned_cache_goes_on_and_hears_a_second_clip(family: str) -> None:
    """Text after generation, then a turn with another clip: as the same tokens in one prompt."""
    model, inputs = family_model(family), prompt(family, 5, 4)
    with strategy("average").apply(model) as trace:
        whole = model.generate(**inputs, max_new_tokens=6)
        first = model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
        second = model.generate(
            input_ids=first.sequences,
            attention_mask=torch.ones_like(first.sequences),
            **cache_argument(cache_of(first)),
            max_new_tokens=3,
        )
        assert torch.equal(whole, second)

        turn = prompt(family, 3, 6, seed=9)
        ids = torch.cat([first.sequences, turn["input_ids"]], 1)
        audio = {key: value for key, value in turn.items() if key not in ("input_ids", "attention_mask")}
        first = model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
        past = cache_of(first).get_seq_length()
        positions = torch.arange(past, ids.shape[1]).unsqueeze(0)
        mask = torch.ones_like(ids)
        later = model(
            input_ids=ids[:, past:],
            attention_mask=mask,
            position_ids=positions,
            **cache_argument(cache_of(first)),
            **audio,
        )
        lengths = [layer.kv_length for layer in trace.layers]
        both = {key: torch.cat([inputs[key], value]) for key, value in audio.items()}
        at_once = model(input_ids=ids, attention_mask=mask, **both)
        assert error(later.logits[:, -1], at_once.logits[:, -1]) <= TOLERANCE
        assert lengths == [layer.kv_length for layer in trace.layers]
    assert lengths[-1] < ids.shape[1]


@pytest.mark.parametrize("name", ["weighted", "random-prune", "h2o"])
@pytest.mark.parametrize("family", installed())
def test_embeddings_with_spans_are_as_input_ids(family: str, name: str) -> None:
    """As `fastadasp compare` feeds its clips: what the decoder takes, and where the clips lie."""
    model, inputs = family_model(family), padded(*(prompt(family, *texts) for texts in TEXTS))
    embeds = decoder_inputs(LoadedModel(model, None, "", "cpu", "float32"), inputs)
    spans = adapter_for(model).span_ids(model, inputs["input_ids"])
    with strategy(name).apply(model):
        by_ids = model(**inputs).logits
    with strategy(name).apply(model, spans=spans):
        by_embeds = model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits
        takes = inspect.signature(type(model).prepare_inputs_for_generation).parameters
        if "inputs_embeds" in takes:  # in transformers itself, generate of two families does not take them
            options = {"attention_mask": inputs["attention_mask"], "max_new_tokens": 2}
            assert model.generate(inputs_embeds=embeds, **options).shape == (3, 2)
    assert error(by_embeds[:, -1], by_ids[:, -1]) <= TOLERANCE


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", installed())
def test_static_caches(family: str, attention: str) -> None:
    model, inputs = family_model(family, attention), padded(*(prompt(family, *texts) for texts in TEXTS))
    static = {"max_new_tokens": 4, "cache_implementation": "static"}
    slides = attention_window(adapter_for(model).decoder(model)) is not None
    with strategy("fastadasp-dense").apply(model):
        if slides:
            with pytest.raises(ModelError, match="without sliding windows"):
                model.generate(**inputs, **static)
        else:
            assert torch.equal(model.generate(**inputs, **static), model.generate(**inputs, max_new_tokens=4))


@pytest.mark.parametrize("family", installed())
def test_what_is_refused_says_so(family: str) -> None:
    model, inputs = family_model(family), prompt(family, 5, 9)
    inputs["input_ids"][0, -9:] = torch.tensor([7, 8, 9] * 3)  # so that looking up the prompt finds something
    with strategy("weighted").apply(model), pytest.raises(ModelError, match="cropped, copied or filled elsewhere"):
        model.generate(**inputs, max_new_tokens=8, prompt_lookup_num_tokens=2)


@pytest.mark.parametrize("name", ["average", "weighted", "a-tome", "fastadasp-dense"])
@pytest.mark.parametrize("family", installed())
def test_gradients_reach_every_token(family: str, name: str) -> None:
    model, inputs = family_model(family), prompt(family, *TEXTS[0])
    adapter, states = adapter_for(model), []

    def leaf(_module: Any, args: Any) -> Any:
        states.append(args[0].detach().requires_grad_())
        return (states[0], *args[1:])

    handle = adapter.decoder(model).layers[0].register_forward_pre_hook(leaf)
    try:
        with strategy(name).apply(model):
            model(**inputs).logits[:, -1].square().sum().backward()
    finally:
        handle.remove()
    gradient = states[0].grad
    assert bool(gradient.isfinite().all())
    assert bool((gradient.abs().sum(-1) > 0).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", installed())
def test_half_precision(family: str, dtype: torch.dtype) -> None:
    half, inputs = family_model(family, dtype=dtype), prompt(family, *TEXTS[0])
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    with strategy("fastadasp-dense").apply(half) as trace:
        logits = half(**inputs).logits
    assert logits.dtype == dtype
    assert bool(logits.isfinite().all())
    assert trace.layers[-1].audio_tokens < 2 * FAMILIES[family].tokens


def test_means_accumulate_in_float32() -> None:
    """A cluster of many tokens keeps the precision of its dtype; a sum in that dtype would lose it."""
    from fastadasp.engine.stream import Members, Reduction

    for dtype in (torch.bfloat16, torch.float16):
        states = (1 + torch.rand(1, 4096, 4, generator=torch.Generator().manual_seed(0))).to(dtype)
        zero = torch.zeros(1, 4096, dtype=torch.int64)
        members = Members.of(zero, torch.ones(1, 4096), 1)
        mean = Reduction(zero, zero[:, :1], members, 1, None).reduce(states)
        exact = states.double().mean(1, keepdim=True)
        assert mean.dtype == dtype
        assert float((mean.double() - exact).abs().max()) <= torch.finfo(dtype).eps


def test_strategies_of_thinkers_with_talkers() -> None:
    """The whole omni model is reached through its thinker, whose placeholders and layers are used."""
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    thinker = family_model("qwen2_5_omni_thinker")
    config = Qwen2_5OmniConfig(thinker_config=thinker.config.to_dict(), enable_audio_output=False)
    model = Qwen2_5OmniForConditionalGeneration(config).eval()
    model.thinker.load_state_dict(thinker.state_dict())
    model.speaker_map["Chelsie"] = {}
    model.talker = torch.nn.Module()
    model.talker.codec_pad_token = 0
    inputs = prompt("qwen2_5_omni_thinker", 5, 7)
    with strategy("weighted").apply(thinker):
        expected = thinker.generate(**inputs, max_new_tokens=4)
    with strategy("weighted").apply(model) as trace:
        ours = model.thinker.generate(**inputs, max_new_tokens=4)
        assert torch.equal(ours, expected)
        before = [layer.audio_tokens for layer in trace.layers]
        assert torch.equal(model.generate(**inputs, thinker_max_new_tokens=4, generation_mode="text"), ours)
        with pytest.raises(ModelError, match="generate text only"):
            model.thinker(**inputs, output_hidden_states=True)
    assert [layer.audio_tokens for layer in trace.layers] == before
    assert before[-1] == 10
    with strategy("vispruner").apply(thinker):
        expected = thinker(**inputs).logits
    with strategy("vispruner").apply(model):
        assert torch.equal(model.thinker(**inputs).logits, expected)


def test_clips_side_by_side_are_told_apart_by_their_lengths() -> None:
    model = family_model("phi4_multimodal")
    inputs = prompt("phi4_multimodal", 5, 0, 6)
    spans = adapter_for(model).span_ids(model, inputs["input_ids"], inputs)
    assert spans.tolist() == [[0] * 5 + [1] * 12 + [2] * 12 + [0] * 6]
    with strategy("weighted").apply(model) as trace:
        trace.keep_assignment = True
        model(**inputs)
    first, second = trace.assignment[0, 5:17], trace.assignment[0, 17:29]
    assert not set(first.tolist()) & set(second.tolist()) - {-1}


def test_compact_positions_move_up_on_every_axis() -> None:
    """Against a count of what is removed behind each survivor; a picture keeps its grid."""
    from fastadasp.contracts.token_plan import TokenPlan
    from fastadasp.engine.spans import find_spans
    from fastadasp.engine.stream import Stream, apply_plan
    from fastadasp.engine.survivors import Survivors

    ids = torch.zeros(1, 12, dtype=torch.int64)
    ids[0, 6:10] = 1
    grid = torch.tensor([[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]])  # text, 2 x 2 patches, text
    positions = torch.cat([grid, torch.arange(4, 10).expand(3, -1)], 1).unsqueeze(1)
    stream = Stream((12,), 12, None, find_spans(ids, None))
    reduction, after = apply_plan(stream, TokenPlan(torch.tensor([[0, -1, -1, 1]])), (2,))
    seen = []
    survivors = Survivors(stream, positions, lambda states, moved, layer: seen.append((moved, layer)))
    survivors.follow(reduction, after)
    survivors.arguments({"position_embeddings": (), "position_ids": None}, torch.zeros(1, 10, 4), 3)
    ((moved, layer),) = seen
    left = [0, 1, 2, 3, 4, 5, 6, 9, 10, 11]
    expected = [[[int(axis[0, i]) + 2 * (i < 7) for i in left]] for axis in positions]
    assert (moved.tolist(), layer) == (expected, 3)


def test_sizes_of_experts_and_of_layers_that_differ() -> None:
    shapes = {name: _shape(name) for name in ("qwen3_omni_moe_thinker", "gemma4_unified", "qwen2_audio")}
    assert shapes["qwen2_audio"] == fastadasp.DecoderShape(4, 32, 4, 2, 8, 48)
    assert shapes["qwen3_omni_moe_thinker"] == fastadasp.DecoderShape(4, 32, 4, 2, 8, 2 * 16)
    assert shapes["gemma4_unified"] == fastadasp.DecoderShape(4, 32, 4, 2, 8, 48)


def _shape(family: str) -> fastadasp.DecoderShape:
    model = family_model(family)
    return fastadasp.DecoderShape.of(adapter_for(model).decoder(model).config)


@pytest.mark.parametrize("budget", ["flops=0.1", "kv=0.1"])
@pytest.mark.parametrize("family", installed())
def test_budgets_that_need_the_sizes_of_the_decoder(family: str, budget: str) -> None:
    model, inputs = family_model(family), prompt(family, *TEXTS[0])
    with fastadasp.load_strategy("fastadasp-dense", budget=budget).apply(model) as trace:
        model(**inputs)
    assert trace.layers[-1].audio_tokens < 2 * FAMILIES[family].tokens
