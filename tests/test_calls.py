"""Calls that a model may be given: compiled models, other caches, devices, and what is wrong with an input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from family_models import FAMILIES, family_model, prompt
from tiny import AUDIO, LAYERS, ONE, TEXT, Sample, audio_model, batch, error, greedy, strategy, text_model
from transformers import DynamicCache
from transformers.cache_utils import Cache, QuantizedLayer

import fastadasp
from fastadasp import ModelError
from fastadasp.inference.load import check_folder
from fastadasp.models.lookup import adapter_for
from fastadasp.strategy import get_registry
from fastadasp.upstream.names import cache_argument, cache_of

pytestmark = pytest.mark.usefixtures("no_grad")


# ---- models that cannot be used ----


def test_an_unknown_family_is_named_beside_those_that_work() -> None:
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9))
    with pytest.raises(ModelError) as caught, strategy("weighted").apply(model):
        pass
    message = str(caught.value)
    assert "GPT2LMHeadModel is a model of type 'gpt2', for which there is no adapter" in message
    assert "qwen2_audio" in message
    assert "whisper" not in message


REFUSED = [e.value for e in get_registry().entries("model") if e.value.refusal]


@pytest.mark.parametrize("adapter", REFUSED, ids=lambda a: a.name)
def test_refused_families_say_why(adapter: Any, tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{adapter.name}"}}')
    with pytest.raises(ModelError, match=f"models of type '{adapter.name}' cannot be used: it|its|audio"):
        check_folder(str(tmp_path))


def test_a_refused_model_is_refused_before_anything_is_touched() -> None:
    config = transformers.WhisperConfig(
        vocab_size=16,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        pad_token_id=0,
    )
    model = transformers.WhisperForConditionalGeneration(config)
    with pytest.raises(ModelError, match="through cross-attention, not as tokens"), strategy("weighted").apply(model):
        pass


def test_families_that_transformers_lacks_are_listed_as_such() -> None:
    adapter = fastadasp.ModelAdapter(name="other", package="no_such_family")
    assert not adapter.is_installed()
    assert fastadasp.ModelAdapter(name="other").is_installed()
    assert all(adapter_for(family_model(name)).is_installed() for name in ("qwen2_audio", "qwen2_5_omni_thinker"))


@pytest.mark.parametrize("kind", ["Olmo2", "Cohere"])
def test_decoder_layers_of_another_build(kind: str) -> None:
    """Norms behind attention and MLP; attention and MLP side by side."""
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**TEXT))
    adapter = fastadasp.ModelAdapter(name="other", decoder_paths=("model",))
    layer = adapter.decoder(model).layers[0]
    with pytest.raises(ModelError, match="is not a pre-norm decoder layer that 'other' knows"):
        adapter.short_parts(layer)


def test_other_kinds_of_attention() -> None:
    model = text_model()
    before = model.config.layer_types
    model.config.layer_types = ["full_attention", "linear_attention"] * 2
    try:
        with pytest.raises(ModelError, match="layers of type linear_attention"), strategy("weighted").apply(model):
            pass
    finally:
        model.config.layer_types = before


# ---- inputs ----


@pytest.mark.parametrize("family", ["qwen2_audio", "phi4_multimodal", "granite_speech"])
def test_a_clip_cut_by_truncation(family: str) -> None:
    """Transformers' own error, with what to do; the next call works."""
    model, inputs = family_model(family), prompt(family, 5, 6)
    cut = inputs | {k: inputs[k][:, : 5 + FAMILIES[family].tokens - 2] for k in ("input_ids", "attention_mask")}
    with pytest.raises((ValueError, RuntimeError)) as caught, strategy("weighted").apply(model):
        model(**cut)
    assert any("switch truncation off" in note for note in caught.value.__notes__)
    with strategy("weighted").apply(model) as trace:
        model(**inputs)
    assert trace.layers


def test_other_errors_get_no_advice() -> None:
    with pytest.raises(ValueError, match="a match") as caught, strategy("weighted").apply(audio_model()):
        raise ValueError("a match")
    assert not hasattr(caught.value, "__notes__")


def test_prompts_longer_than_a_sliding_window() -> None:
    """Up to the window it hides nothing; beyond, the message says what the model has and what was given."""
    model = family_model("gemma4_unified")
    text = 512 - FAMILIES["gemma4_unified"].tokens - 1
    with strategy("weighted").apply(model):
        fits = prompt("gemma4_unified", text - 10, 10)
        model.generate(**fits, max_new_tokens=2)
        with pytest.raises(ModelError, match="look back 512 tokens, but prompt and cache have 513"):
            model.generate(**fits, max_new_tokens=3)
        with pytest.raises(ModelError, match="have 515"):
            model(**prompt("gemma4_unified", text, 4))
        ids = torch.full((1, 520), 7)  # text alone is the plain model's affair
        assert model.generate(input_ids=ids, max_new_tokens=3).shape == (1, 523)


@pytest.mark.parametrize("family", ["gemma4_unified", "qwen3_omni_moe_thinker"])
def test_images_beside_audio_are_refused_where_they_cannot_work(family: str) -> None:
    model, inputs = family_model(family), prompt(family, 5, 6)
    with strategy("weighted").apply(model), pytest.raises(ModelError, match="leave images and videos out"):
        model(**inputs, pixel_values=torch.zeros(1, 4, 8))


def test_nested_by_another_way_in() -> None:
    """The model around the decoder, a part of it and the decoder itself are one model."""
    model = audio_model()
    with strategy("weighted").apply(model):
        for inner in (model, model.model, torch.compile(model, backend="eager")):
            with pytest.raises(ModelError, match="already applied"), strategy("prune").apply(inner):
                pass


# ---- compiled models ----


def test_compiled_models_run_as_written_while_a_strategy_is_applied() -> None:
    model, inputs = family_model("qwen3_asr"), prompt("qwen3_asr", 5, 6)
    with strategy("weighted").apply(model) as trace:
        expected = model(**inputs).logits
        tokens = model.generate(**inputs, max_new_tokens=3)
        layers = list(trace.layers)
    compiled: list[int] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    layer = model.model.language_model.layers[0]
    layer.mlp.compile(backend=backend)
    whole = torch.compile(model, backend=backend, disable=False)
    try:
        plain = model(**inputs).logits
        assert compiled
        for given in (model, whole):
            compiled.clear()
            with strategy("weighted").apply(given) as trace:
                assert torch.equal(given(**inputs).logits, expected)
                assert torch.equal(given.generate(**inputs, max_new_tokens=3), tokens)
            assert trace.layers == layers
            assert not compiled
        assert torch.equal(model(**inputs).logits, plain)
    finally:
        layer.mlp._compiled_call_impl = None
        torch.compiler.reset()


# ---- other caches ----


class Rounded(QuantizedLayer):
    """A quantised cache layer whose quantisation rounds to bfloat16, so that no package is needed."""

    def _quantize(self, tensor: Any, axis: int) -> Any:
        return tensor.to(torch.bfloat16)

    def _dequantize(self, q_tensor: Any) -> Any:
        return q_tensor.float()


def _rounded() -> Any:
    return Cache(layers=[Rounded(residual_length=4) for _ in range(LAYERS)])


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", ["weighted", "fastadasp-dense", "prune"])
def test_quantised_caches(name: str, layer: int) -> None:
    """Quantised layers of unequal length: the prefill is exact, and decoding stays near."""
    model, inputs = audio_model(), batch(ONE)
    with strategy(name, layers={"name": "fixed", "layer": layer}).apply(model):
        expected = greedy(model, inputs, 5)
        forced = [step.argmax(-1) for step in expected]
        cache = _rounded()
        first = model(**inputs, **cache_argument(cache)).logits[:, -1]
        assert torch.equal(first, expected[0])
        for step, token in enumerate(forced[:-1]):
            logits = model(input_ids=token.unsqueeze(1), **cache_argument(cache)).logits[:, -1]
            assert error(logits, expected[step + 1]) <= 0.02


def test_quantised_caches_give_no_keys_away() -> None:
    model, inputs = audio_model(), batch(ONE)
    for name, message in (("cache", "cannot be evicted from a Rounded"), ("before", "use the default dynamic cache")):
        with strategy(name).apply(model), pytest.raises(ModelError, match=message):
            model(**inputs, **cache_argument(_rounded()))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_offloaded_caches() -> None:
    model, inputs = audio_model().to("cuda"), {k: v.to("cuda") for k, v in batch(ONE).items()}
    try:
        with strategy("fastadasp-dense").apply(model):
            expected = model.generate(**inputs, max_new_tokens=5)
            assert torch.equal(model.generate(**inputs, max_new_tokens=5, cache_implementation="offloaded"), expected)
    finally:
        model.to("cpu")


def test_a_cache_with_sliding_layers_counts_what_went_by() -> None:
    """Keys that go before or in the first layer are still counted, as in a cache without windows."""
    model, inputs = family_model("phi4_multimodal"), prompt("phi4_multimodal", 5, 6)
    token = torch.tensor([[7]])
    for name in ("before", "first-cache", "weighted"):
        with strategy(name).apply(model):
            cache = cache_of(model(**inputs, use_cache=True))
            assert type(cache.layers[0]).__name__ == "DynamicSlidingWindowLayer"
            assert cache.get_seq_length() == inputs["input_ids"].shape[1]
            model(input_ids=token, **cache_argument(cache))
            assert cache.get_seq_length() == inputs["input_ids"].shape[1] + 1


def test_a_cache_of_the_plain_model_goes_on_with_a_strategy() -> None:
    """An earlier text turn came without a strategy, and all keys are known to be the plain model's."""
    model, inputs = audio_model(), batch(Sample((12, 7), (23,), seed=5))
    with strategy("average").apply(model):
        expected = model(**inputs).logits[:, -1]
    cache = DynamicCache(config=model.config.text_config)
    model(input_ids=inputs["input_ids"][:, :9], **cache_argument(cache), use_cache=True)
    rest = inputs | {"input_ids": inputs["input_ids"][:, 9:]}
    with strategy("average").apply(model):
        assert error(model(**rest, **cache_argument(cache)).logits[:, -1], expected) <= 1e-5


def test_a_reduced_cache_goes_on_under_another_apply() -> None:
    model, inputs = audio_model(), batch(ONE)
    token = torch.tensor([[7]])
    with strategy("weighted").apply(model):
        cache = cache_of(model(**inputs, use_cache=True))
        expected = model(input_ids=token, **cache_argument(cache)).logits
        cache = cache_of(model(**inputs, use_cache=True))
    with strategy("prune").apply(model):
        assert torch.equal(model(input_ids=token, **cache_argument(cache)).logits, expected)


# ---- several devices ----


def _spread(model: Any, places: list[str]) -> list[Any]:
    """Puts each decoder layer on a device, and moves what enters it, as ``device_map`` does."""

    def bring(module: Any, device: str) -> None:
        forward = module.forward

        def move(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value.to(device)
            return tuple(map(move, value)) if isinstance(value, tuple) else value

        # inside forward, as accelerate does: after all hooks
        module.forward = lambda *args, **kwargs: forward(*map(move, args), **{k: move(v) for k, v in kwargs.items()})

    decoder = adapter_for(model).decoder(model)
    for layer, place in zip(decoder.layers, places, strict=True):
        layer.to(place)
        bring(layer, place)
    bring(decoder.norm, "cpu")
    return [*decoder.layers, decoder.norm]


def _several_devices(places: list[str]) -> None:
    for name in (
        *("weighted", "fastadasp-dense", "fastadasp-dense-fast", "fastv", "weighted+h2o", "sa-map"),
        *("expected-attention", "uniform"),
    ):
        model = audio_model()
        samples = batch(ONE, Sample((3, 4), (11,), seed=2))
        with strategy(name).apply(model):
            expected = greedy(model, samples, 3)
            forced = [step.argmax(-1) for step in expected]
        modules = _spread(model, places)
        try:
            with strategy(name).apply(model):
                spread = greedy(model, samples, 3, forced)
        finally:
            for module in modules:
                del module.forward
            model.to("cpu")
        for one, other in zip(spread, expected, strict=True):
            assert error(one, other) <= 1e-4


def test_a_model_whose_layers_are_moved_to_is_the_model() -> None:
    _several_devices(["cpu"] * LAYERS)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_model_on_several_devices() -> None:
    _several_devices(["cpu", "cuda", "cpu", "cuda"])


def test_what_the_engine_makes_follows_the_layers() -> None:
    """On the device without memory: every tensor that is carried from layer to layer can be moved."""
    from fastadasp.contracts.token_plan import TokenPlan
    from fastadasp.engine.rotation import Rotation
    from fastadasp.engine.spans import find_spans
    from fastadasp.engine.stream import Stream, apply_plan
    from fastadasp.testing.views import PROMPTS, view_of

    ids = torch.zeros(1, 9, dtype=torch.int64)
    ids[0, 2:6] = 1
    stream = Stream((9,), 9, torch.ones(1, 9, dtype=torch.bool), find_spans(ids, None))
    moved = stream.to(torch.device("meta"))
    spans = moved.spans
    assert {t.device.type for t in (moved.valid, spans.sample, spans.start, spans.counts)} == {"meta"}
    assert (spans.tokens, moved.lengths) == (stream.spans.tokens, stream.lengths)
    assert stream.to(torch.device("cpu")) is stream

    still = torch.ones(1, 9, 2)
    rotation = Rotation(still, still, torch.tensor([9]), lambda places: (places.float(), places.float()))
    there = rotation.to(torch.device("meta"))
    assert {t.device.type for t in (there.cos, there.sin, there.follows)} == {"meta"}
    assert rotation.embed(torch.zeros(1))[0].device.type == "cpu"
    assert {part.device.type for part in there.embed(torch.zeros(1))} == {"meta"}

    plan = TokenPlan(torch.zeros(1, 4, dtype=torch.int64, device="meta"), merges=True)
    reduction, left = apply_plan(moved, plan, [1])
    assert reduction.add_up(torch.ones(1, 4), spans, left.spans).device.type == "meta"

    view = view_of(PROMPTS[:1])
    view.kept["scores"] = (2,), torch.ones(1, 23)
    view.valid = view.valid.to("meta")
    assert view.shared("scores", 4, lambda: pytest.fail("they are there")).device.type == "meta"


def test_prompts_may_lie_on_another_device() -> None:
    from fastadasp.engine.apply import _applied as applied
    from fastadasp.engine.calls import Arrival
    from fastadasp.engine.outputs import Asked

    model, samples = audio_model(), batch(ONE)
    with strategy("weighted").apply(model):
        session = next(iter(applied.values()))
        session.calls.arrival = Arrival(torch.ones(1, 9, dtype=torch.int64), None, None, Asked("weighted"))
        assert session._spans_for(1, 9, 0, torch.device("meta")).device.type == "meta"
        session.calls.arrival = None
        model(**samples)


def test_audio_token_of_every_family_is_found() -> None:
    for name in FAMILIES:
        if hasattr(transformers, FAMILIES[name].model):
            assert adapter_for(family_model(name)).audio_token_id(family_model(name)) == AUDIO
