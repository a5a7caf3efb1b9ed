"""The engine in a model: nothing removed changes nothing, all is put back, counts are true, errors are clear."""

from __future__ import annotations

import ast
import copy
import math
from pathlib import Path

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
    error,
    greedy,
    strategy,
    strategy_names,
    text_model,
)
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

import fastadasp
from fastadasp import ModelError, StrategyError
from fastadasp.counts.schedule import layer_ratios, removals
from fastadasp.engine import received
from fastadasp.engine.received import received_attention
from fastadasp.upstream.names import cache_argument, cache_of

NAMES = strategy_names()
WITH_SPANS = [name for name in NAMES if "encoder" not in strategy(name).needs()]
"""Those that know all from embeddings; tests/test_encoder.py has the others."""
POSITIONS = ("original", "compact")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")


@pytest.fixture(autouse=True)
def _no_grad(request):
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


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


# ---- how the model is called ----


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


# ---- numbers ----


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_runs(name, positions, attention):
    model, inputs = audio_model(attention, torch.bfloat16), batch(*MANY)
    with strategy(name, positions=positions).apply(model):
        out = model(**inputs)
        assert out.logits.dtype == torch.bfloat16
        assert bool(out.logits.isfinite().all())
        assert model.generate(**inputs, max_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3


@pytest.mark.parametrize("name", NAMES)
def test_eager_and_sdpa_agree(name):
    inputs, logits = batch(*MANY), []
    for attention in ("sdpa", "eager"):
        with strategy(name).apply(audio_model(attention)):
            logits.append(greedy(audio_model(attention), inputs, 3, [torch.arange(4) + 5] * 3))
    for one, other in zip(*logits, strict=True):
        assert error(one, other) <= 1e-5


@pytest.mark.parametrize("name", WITH_SPANS)
def test_gradients_flow_through(name):
    model, inputs = audio_model(), batch(*MANY)
    embeds, spans = embed(model, inputs)
    embeds = embeds.detach().requires_grad_()
    with strategy(name).apply(model, spans=spans):
        model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits[:, -1].square().sum().backward()
    shown = inputs["attention_mask"].bool()
    assert bool(embeds.grad.isfinite().all())
    assert bool((embeds.grad[shown].abs().sum(-1) > 0).all())
    assert float(embeds.grad[~shown].abs().max()) == 0.0


def _naive(query, key, scale, valid):
    """Column sums of the whole attention matrix."""
    heads, length, total = query.shape[1], query.shape[2], key.shape[2]
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    logits = (query.double() @ key.double().transpose(-1, -2)) * scale
    seen = torch.ones(length, total).tril(total - length).bool().expand(len(query), length, total)
    counted = torch.ones(len(query), length, dtype=torch.bool)
    if valid is not None:
        seen, counted = seen & valid.unsqueeze(1), valid[:, -length:]
    weights = logits.masked_fill(~seen.unsqueeze(1), -math.inf).softmax(-1)
    return weights.masked_fill(~counted[:, None, :, None], 0.0).sum((1, 2)).float()


@pytest.mark.parametrize("block", [1, 300, 4_000_000])
@pytest.mark.parametrize("past", [0, 9])
@pytest.mark.parametrize("padded", ["no", "left", "right"])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
def test_received_attention_is_the_column_sum(heads, groups, padded, past, block, monkeypatch):
    monkeypatch.setattr(received, "_BLOCK_ELEMENTS", block)
    generator = torch.Generator().manual_seed(0)
    rows, length, dim = 3, 17, 8
    query = 3 * torch.randn(rows, heads, length, dim, generator=generator)
    key = torch.randn(rows, groups, past + length, dim, generator=generator)
    valid = None
    if padded != "no":
        count = torch.tensor([[past + length], [11], [4]])
        steps = torch.arange(past + length)
        valid = steps >= past + length - count if padded == "left" else steps < past + count
    ours = received_attention(query, key, 0.3, valid)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, _naive(query, key, 0.3, valid), rtol=1e-5, atol=1e-6)


def test_received_attention_follows_the_model():
    """The scores a strategy sees are the column sums of the maps that eager attention returns."""
    model, inputs = audio_model("eager"), batch(*MANY)
    maps = model(**inputs, output_attentions=True).attentions[1]
    shown = inputs["attention_mask"].bool()
    sums = maps.masked_fill(~shown[:, None, :, None], 0.0).sum((1, 2))
    seen = []

    class Spy(fastadasp.Scorer):
        name = "spy"
        gives = ("importance",)

        def importance(self, layer):
            seen.append((layer.received_attention(), layer.valid, layer.spans))
            return seen[-1][0]

    with strategy("weighted").model_copy(update={"weight": Spy()}).apply(model):
        model(**inputs)
    ((scores, valid, spans),) = seen
    for row, (sample, start, count) in enumerate(zip(spans.samples, spans.start.tolist(), spans.tokens, strict=True)):
        assert torch.allclose(scores[row, :count], sums[sample, start : start + count], rtol=1e-4, atol=1e-5)
        assert valid[row].sum() == count


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return out


def test_no_square_tensor(monkeypatch):
    """With blocks of 2^15 weights, a prompt of 600 tokens makes nothing near 600 x 600, in any built-in recipe."""
    monkeypatch.setattr(received, "_BLOCK_ELEMENTS", 1 << 15)
    model, length = text_model(), 600
    embeds = torch.randn(1, length, 32, generator=torch.Generator().manual_seed(0))
    spans = torch.zeros(1, length, dtype=torch.int64)
    spans[0, 20:580] = 1
    model.model(inputs_embeds=embeds)  # what transformers itself makes once
    for name in WITH_SPANS:
        with strategy(name).apply(model.model, spans=spans), Largest() as largest:
            model.model(inputs_embeds=embeds)
        assert largest.size < length * length // 4, name


def test_the_engine_never_waits_for_the_device():
    """`.item()`, `.tolist()`, `.cpu()` and `.numpy()` stand only where spans, padding and inexact counts are read."""
    allowed = {"find_spans", "_look_at_padding", "_reduce"}
    allowed |= {"_longest", "_held_by_head"}  # where heads keep different numbers
    allowed |= {"room", "_parts"}  # where an encoder's windows are read, once a prompt
    folder = Path(fastadasp.__file__).parent
    plugins = Path(fastadasp.load_strategy("weighted").merger.__class__.plan.__code__.co_filename).parent
    for path in [*folder.glob("engine/*.py"), folder / "ops.py", *plugins.glob("*.py")]:
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or function.name in allowed:
                continue
            for node in ast.walk(function):
                waits = isinstance(node, ast.Attribute) and node.attr in ("item", "tolist", "cpu", "numpy", "nonzero")
                assert not waits, f"{path.name}: {function.name} uses .{getattr(node, 'attr', '')}"


@pytest.mark.parametrize("name", ["weighted", "fastadasp-dense", "prune", "before", "cache", "average+cache"])
def test_decoding_without_padding_makes_nothing(name, monkeypatch):
    """Beyond the prompt, no mask and no token stream is made; a chunk of text after it finds every key known."""
    from fastadasp.engine import begin, passes

    model, inputs = audio_model(), batch(ONE)
    with strategy(name).apply(model):
        cache = cache_of(model(**inputs, use_cache=True))
        with monkeypatch.context() as patch:
            for room, what in ((passes, "causal_mask"), (passes, "Stream"), (begin, "Keys"), (begin, "Stream")):
                patch.setattr(room, what, lambda *_a, **_k: pytest.fail("work in a decoding step"))
            patch.setattr(passes.FollowingPass, "join", lambda *_a: pytest.fail("work in a decoding step"))
            for token in (5, 6, 7):
                mask = torch.ones(1, cache.get_seq_length() + 1, dtype=torch.int64)
                model(input_ids=torch.tensor([[token]]), attention_mask=mask, **cache_argument(cache), use_cache=True)
        chunk = torch.tensor([[8, 9]])
        after = model(input_ids=chunk, **cache_argument(cache), use_cache=True).logits[:, -1]
        again = cache_of(model(**inputs, use_cache=True))
        whole = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]]), **cache_argument(again), use_cache=True).logits[:, -1]
    assert cache_lengths(cache) == cache_lengths(again)
    assert error(after, whole) <= 1e-5
