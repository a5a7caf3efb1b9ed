"""State is per call: threads, models that share a configuration, copies, interrupts; training and prompt positions."""

from __future__ import annotations

import copy
import gc
import sys
import threading

import pytest
import torch
from tiny import AUDIO, MANY, ONE, Sample, audio_model, batch, error, strategy, strategy_names, text_model
from transformers import Qwen2AudioForConditionalGeneration

import fastadasp
from fastadasp.engine import attention
from fastadasp.engine.apply import _applied
from fastadasp.errors import ModelError, StrategyError
from fastadasp.upstream.names import cache_argument, cache_of

OTHER = Sample((5, 7), (31,), seed=9)


def fresh(config=None):
    """A model of its own, with weights that learn."""
    torch.manual_seed(0)
    model = Qwen2AudioForConditionalGeneration(config or copy.deepcopy(audio_model().config)).eval()
    model.generation_config = audio_model().generation_config
    return model


def hooks_of(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("name", strategy_names())
def test_two_threads_generate_inside_one_apply(name):
    model, inputs = audio_model(), [batch(ONE), batch(OTHER)]
    with strategy(name).apply(model):
        expected = [model.generate(**x, max_new_tokens=4) for x in inputs]
        found: list[object] = []

        def work(x, answer):
            for _ in range(4):
                try:
                    found.append(torch.equal(model.generate(**x, max_new_tokens=4), answer))
                except Exception as problem:
                    found.append(problem)

        threads = [threading.Thread(target=work, args=pair) for pair in zip(inputs, expected, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [True] * 8


def resting(model):
    """Hooks on the decoder's layers, by layer; the decoder and the model around it keep theirs."""
    layers = model.model.language_model.layers
    return [hooks_of(layer) for layer in layers]


@pytest.mark.parametrize("name", ["weighted", "fastadasp-dense", "first-cache", "weighted+h2o"])
def test_the_hooks_of_layers_rest_while_nothing_is_padded(name):
    """Decoding goes through one layer's hook alone; the next prompt and a padded batch have them all again."""
    model, chosen = fresh(), strategy(name)
    with chosen.apply(model) as trace:
        every = resting(model)
        assert min(every) == 4
        plain, named = "sdpa", lambda: model.model.language_model.config._attn_implementation
        assert named() == f"fastadasp_{plain}"
        cache = cache_of(model(**batch(ONE), use_cache=True))
        first, counts = trace.layers, resting(model)
        assert counts == every
        for token in (5, 6):
            model(input_ids=torch.tensor([[token]]), **cache_argument(cache), use_cache=True)
            assert resting(model) == [1, *[0] * (len(every) - 1)]
            assert named() == plain  # nobody looks at queries and keys
        model(**batch(ONE))
        assert named() == f"fastadasp_{plain}"
        assert resting(model) == every
        assert [layer.audio_tokens for layer in trace.layers] == [layer.audio_tokens for layer in first]
        model.generate(**batch(*MANY), max_new_tokens=3)
        assert resting(model) == every
    assert hooks_of(model) == 0
    assert named() == plain
    for module in model.modules():
        assert not module._forward_pre_hooks_with_kwargs
        assert not module._forward_hooks_with_kwargs


def test_hooks_that_rested_keep_their_place():
    """Of two hooks of a user, one set before the strategy's and one after, each is called where it was."""
    model, inputs, seen = fresh(), batch(ONE), []
    layer = model.model.language_model.layers[-1]

    def watch(name):
        return lambda _m, args, *_: seen.append((name, args[0].shape[1]))

    handles = [layer.register_forward_pre_hook(watch("before"))]
    with strategy("weighted", site="input", layers={"name": "fixed", "layer": 3}).apply(model):
        handles.append(layer.register_forward_pre_hook(watch("after")))
        model.generate(**inputs, max_new_tokens=3)
        handles.append(layer.register_forward_pre_hook(watch("last")))
        model.generate(**inputs, max_new_tokens=3)
    for handle in handles:
        handle.remove()
    prompts = [entry for entry in seen if entry[1] > 1]
    long, short = prompts[0][1], prompts[1][1]
    assert short < long
    assert prompts == [("before", long), ("after", short), ("before", long), ("after", short), ("last", short)]


def test_hooks_come_back_for_a_thread_that_reads_a_prompt_while_another_decodes():
    model, prompt = audio_model(), batch(ONE)
    with strategy("fastadasp-dense").apply(model):
        expected = model(**prompt).logits
        cache = cache_of(model(**prompt, use_cache=True))
        found, inside, go = [], threading.Event(), threading.Event()

        def wait(*_):
            if threading.current_thread() is reader:
                inside.set()
                go.wait(20)

        handle = model.model.language_model.layers[0].register_forward_pre_hook(wait)
        reader = threading.Thread(target=lambda: found.append(model(**prompt).logits))
        reader.start()
        assert inside.wait(20)
        model(input_ids=torch.tensor([[5]]), **cache_argument(cache), use_cache=True)  # must not take them away
        go.set()
        reader.join()
        handle.remove()
    assert torch.equal(found[0], expected)


def test_models_that_share_a_configuration_overlap():
    one = fresh()
    two, inputs = fresh(one.config), batch(ONE)
    config = one.model.language_model.config
    assert config is two.model.language_model.config
    plain = two(**inputs).logits
    first, second = strategy("weighted").apply(one), strategy("weighted").apply(two)
    first.__enter__()
    assert torch.equal(two(**inputs).logits, plain)
    second.__enter__()
    reduced = two(**inputs).logits
    first.__exit__(None, None, None)
    assert torch.equal(two(**inputs).logits, reduced)
    assert torch.equal(one(**inputs).logits, plain)
    second.__exit__(None, None, None)
    assert config._attn_implementation == "sdpa"
    assert hooks_of(one) == hooks_of(two) == 0


def test_a_copy_made_inside_apply_is_a_plain_model():
    model, inputs = fresh(), batch(ONE)
    plain = model(**inputs).logits
    with strategy("weighted").apply(model):
        clone = copy.deepcopy(model)
        assert torch.equal(clone(**inputs).logits, plain)
        assert clone.model.language_model.config._attn_implementation == "sdpa"
        with strategy("weighted").apply(clone):
            assert torch.equal(clone(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("leaving", [False, True])
def test_an_interrupt_leaves_nothing_behind(leaving):
    """KeyboardInterrupt at every traced point of entering or leaving, one after the other."""
    model, chosen = fresh(), strategy("weighted")
    config = model.model.language_model.config
    point = points = 0
    while True:
        point += 1
        context, count, stopped = chosen.apply(model), 0, False

        def trace(frame, event, arg, point=point):
            nonlocal count
            if "fastadasp/engine" not in frame.f_code.co_filename:
                return trace
            count += 1
            if count == point:
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        try:
            if leaving:
                context.__enter__()
            sys.settrace(trace)
            try:
                if leaving:
                    context.__exit__(None, None, None)
                else:
                    context.__enter__()
            finally:
                sys.settrace(before)
        except KeyboardInterrupt:
            stopped = True
        if not stopped:
            context.__exit__(None, None, None)
        del context
        gc.collect(0)
        where = f"interrupted at point {point}"
        assert hooks_of(model) == 0, where
        assert config._attn_implementation == "sdpa", where
        assert not _applied, where
        assert not attention._holders, where
        points = point
        if not stopped:
            break
    assert points > 50


def test_a_context_is_entered_once():
    context = strategy("weighted").apply(audio_model())
    with context:
        pass
    with pytest.raises(ModelError, match="apply\\(\\) for each"), context:
        pass


# ---- training ----


def checkpoint(model, options=None):
    """Switches gradient checkpointing on, by the name that this transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(options)


def gradients(name, reentrant, *, outside=False):
    model = fresh().train()
    if reentrant is not None:
        checkpoint(model, {"use_reentrant": reentrant})
    own = hooks_of(model)  # transformers lets embeddings ask for gradients
    with strategy(name).apply(model):
        losses = [
            model(**batch(sample), use_cache=False).logits[:, -1].logsumexp(-1).sum() for sample in (ONE, MANY[3])
        ]
        if not outside:
            sum(losses).backward()
    if outside:
        sum(losses).backward()
    assert hooks_of(model) == own
    return {key: p.grad for key, p in model.named_parameters() if p.grad is not None and p.grad.norm() > 0}


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["weighted", "a-tome-fill", "input", "before", "random-prune-decay"])
def test_gradients_with_checkpointing(name, reentrant, outside):
    plain, found = gradients(name, None), gradients(name, reentrant, outside=outside)
    assert plain.keys() == found.keys()
    for key, expected in plain.items():
        assert error(found[key], expected) <= 1e-5, key


def test_eviction_and_checkpointing_is_refused():
    model = fresh().train()
    checkpoint(model)
    with strategy("cache").apply(model), pytest.raises(StrategyError, match="without a key/value cache"):
        model(**batch(ONE))


@pytest.mark.parametrize("name", ["weighted", "random-prune-decay", "input", "cache"])
def test_the_loss_of_labels_is_that_of_the_tokens_left(name):
    samples = MANY[:3]  # text before a clip, after it, and no clip
    model, inputs = fresh(), batch(*samples)
    first = inputs["attention_mask"].cumsum(1) <= 1  # padding, and what only padding stands before
    labels = inputs["input_ids"].masked_fill(first, -100)
    with strategy(name).apply(model):
        output = model(**inputs, labels=labels)
        alone = [model(**batch(sample)).logits[0] for sample in samples]
    total = count = 0
    for sample, logits in zip(samples, alone, strict=True):
        ids = sample.ids()
        # a text token is predicted by what stands before it; the text after the last clip ends the sequence
        tail = sample.text[-1] if sample.clips else sum(sample.text)
        targets = torch.tensor(ids[-tail:])
        rows = logits[len(logits) - tail - 1 : -1] if len(logits) > tail else logits[:-1]
        targets = targets[-len(rows) :]
        total += torch.nn.functional.cross_entropy(rows, targets, reduction="sum")
        count += len(targets)
        if sample.clips:  # the text before the first clip begins it
            head = sample.text[0]
            total += torch.nn.functional.cross_entropy(logits[: head - 1], torch.tensor(ids[1:head]), reduction="sum")
            count += head - 1
    assert error(output.loss, total / count) <= 1e-5


def test_logits_at_positions_of_the_prompt():
    model, inputs = text_model(), {"input_ids": torch.tensor([ONE.ids()])}
    place, spans = len(ONE) - 3, (inputs["input_ids"] == AUDIO).long()
    with torch.no_grad(), strategy("weighted").apply(model, spans=spans) as trace:
        whole = model(**inputs).logits[0]
        assert len(whole) < len(ONE)
        assert trace.layers[-1].tokens_out_per_sample == (len(whole),)
        for positions in ([place], [place, len(ONE) - 1], [-3], [0, 2]):
            kept = model(**inputs, logits_to_keep=torch.tensor(positions)).logits[0]
            gone = len(ONE) - len(whole)
            rows = [p if 0 <= p < ONE.text[0] else p % len(ONE) - gone for p in positions]
            assert torch.allclose(kept, whole[rows], atol=1e-5)
        with pytest.raises(StrategyError, match="removed or merged"):
            model(**inputs, logits_to_keep=torch.arange(len(ONE)))
        with pytest.raises(StrategyError, match="removed or merged"):
            model(**inputs, logits_to_keep=len(ONE) - 4)
        assert torch.allclose(model(**inputs, logits_to_keep=3).logits[0], whole[-3:], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", strategy_names())
def test_the_default_dtype_does_not_matter(name, dtype):
    model, inputs = audio_model(), batch(*MANY)
    with strategy(name).apply(model):
        expected = model(**inputs).logits
        torch.set_default_dtype(dtype)
        try:
            found = model(**inputs).logits
        finally:
            torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert error(found, expected) <= 1e-5 if dtype is torch.float64 else found.shape == expected.shape


@pytest.mark.parametrize("name", ["weighted", "cache"])
def test_generation_without_a_cache_is_refused(name):
    with strategy(name).apply(audio_model()), pytest.raises(StrategyError, match="use_cache"):
        audio_model().generate(**batch(ONE), max_new_tokens=4, use_cache=False)


@pytest.mark.parametrize("name", ["weighted", "first-cache", "before"])
def test_a_cache_that_was_reset_is_a_new_one(name):
    model = audio_model()
    with strategy(name).apply(model):
        cache = cache_of(model(**batch(ONE), use_cache=True))
        expected = model(**batch(OTHER), use_cache=True).logits
        cache.reset()
        if cache.layers[1].get_seq_length() == 0:  # transformers from 5.24 on empties it, before it only wrote zeros
            assert torch.equal(model(**batch(OTHER), **cache_argument(cache)).logits, expected)
        else:
            with pytest.raises(ModelError):
                model(**batch(OTHER), **cache_argument(cache))


def test_seeds_of_numpy():
    numpy = pytest.importorskip("numpy")
    assert [fastadasp.load_strategy("random", seed=seed).seed for seed in numpy.arange(3)] == [0, 1, 2]


@pytest.mark.parametrize("wrapper", ["peft", "DataParallel"])
def test_models_inside_wrappers(wrapper):
    model, inputs, chosen = fresh(), batch(*MANY), strategy("weighted")
    with torch.no_grad(), chosen.apply(model) as trace:
        expected, layers = model(**inputs).logits, list(trace.layers)
    if wrapper == "peft":
        peft = pytest.importorskip("peft")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])).eval()  # adds zero at first
    else:
        wrapped = torch.nn.DataParallel(model)
    with torch.no_grad(), chosen.apply(wrapped) as trace:
        found = wrapped(**inputs).logits
    assert trace.layers == layers
    assert error(found, expected) <= 1e-5
