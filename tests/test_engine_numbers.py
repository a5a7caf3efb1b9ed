"""The engine in numbers: dtypes, kinds of attention, gradients, what it keeps and what it waits for."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
import torch
from tiny import (
    MANY,
    ONE,
    audio_model,
    batch,
    cache_lengths,
    embed,
    error,
    greedy,
    names_with_spans,
    strategy,
    strategy_names,
    text_model,
)
from torch.utils._python_dispatch import TorchDispatchMode

import fastadasp
from fastadasp.engine import received
from fastadasp.engine.received import received_attention
from fastadasp.upstream.names import cache_argument, cache_of

pytestmark = pytest.mark.usefixtures("no_grad")

NAMES = strategy_names()
WITH_SPANS = names_with_spans()
POSITIONS = ("original", "compact")


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
