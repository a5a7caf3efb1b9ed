"""Budgets by head: shares, masks and caches in which heads keep different tokens."""

from __future__ import annotations

import math

import pytest
import torch
from cache_views import HEADS, clips_of, maps, seen, shared
from test_plugins import component
from tiny import MANY, ONE, audio_model, batch, error

import fastadasp
from fastadasp import testing
from fastadasp.engine import masks, reducing
from fastadasp.engine.heads import by_head
from fastadasp.upstream.names import cache_argument, cache_of

# ---- budgets by head ----


def heads_of(name, view, scores, **options):
    """What each head keeps of each clip, as sets of places: [clip][head]."""
    select = scores.masked_fill(~view.valid, math.inf)
    made = component("merger", name, **options).plan(view, select, None, view.remove)
    rows = [{i for i, c in enumerate(row) if c >= 0} for row in made.cluster.tolist()]
    return [rows[first : first + view.heads] for first in range(0, len(rows), view.heads)]


@pytest.mark.parametrize("safe", [0.0, 0.2, 0.9, 1.0])
def test_heads_share_a_budget(safe):
    view = by_head(testing.view_of((testing.Prompt((3, 2), (9, 6), 1), testing.Prompt((3,), (3,), 2))))
    scores = view.noise(7) ** 3
    for clip, kept in enumerate(heads_of("drop-across-heads", view, scores, safe=safe)):
        rows = [scores[clip * HEADS + head, : view.tokens[clip * HEADS]].tolist() for head in range(HEADS)]
        n, mean = len(rows[0]), len(rows[0]) - view.removals[clip * HEADS]
        own = max(1, int(mean * safe))
        sure = {(h, i) for h in range(HEADS) for i in sorted(range(n), key=lambda i: -rows[h][i])[:own]}
        rest = sorted({(h, i) for h in range(HEADS) for i in range(n)} - sure, key=lambda at: -rows[at[0]][at[1]])
        chosen = sure | set(rest[: HEADS * mean - len(sure)])
        assert kept == [{i for h, i in chosen if h == head} for head in range(HEADS)]


def test_shares_by_hand():
    """Scores of one head are three times the other's: of 2 x 4 keys to keep it gets 6, and with half shared alike 5."""
    view = by_head(testing.view_of((testing.Prompt((3, 2), (8,), 1),), remove=[4]))
    scores = torch.tensor([[3.0] * 8, [1.0] * 8]) + 1e-3 * torch.arange(8)
    count = [
        [len(kept) for kept in clip]
        for even in (0.0, 0.5, 1.0)
        for clip in heads_of("drop-by-head", view, scores, even=even)
    ]
    assert count == [[6, 2], [5, 3], [4, 4]]
    far = torch.tensor([[1000.0] * 8, [1e-3] * 8])
    assert [len(kept) for kept in heads_of("drop-by-head", view, far, even=0.0)[0]] == [7, 1]  # no head goes empty
    wide = by_head(testing.view_of((testing.Prompt((3, 2), (8,), 1),), remove=[2]))
    assert [len(kept) for kept in heads_of("drop-by-head", wide, far, even=0.0)[0]] == [8, 4]  # no more than it has


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cutoff", [0.0, 0.3, 1.0])
def test_low_pass_attention(side, cutoff):
    inputs = batch(*MANY, side=side)
    view, ours = seen("audiokv", inputs, **{"select.window": 4, "select.cutoff": cutoff})
    full = maps(inputs)
    for row, sample, columns, places in clips_of(view, inputs):
        plain = shared(full[sample][:, columns[-4:]].mean(1)[:, [columns[i] for i in places]])
        n = len(places)
        spectrum = torch.fft.rfft(plain.double())
        spectrum[:, [f for f in range(n // 2 + 1) if 2 * f > cutoff * n]] = 0
        expected = torch.fft.irfft(spectrum, n).clamp_min(0)
        assert torch.allclose(ours[row * HEADS : (row + 1) * HEADS, :n].double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["adakv", "audiokv"])
def test_what_a_head_drops_is_hidden_from_it_alone(name, attention):
    """Decoding equals the full cache under a mask that hides, from each head, what that head dropped."""
    model, inputs = audio_model(attention), batch(ONE)
    kept = []
    plan_of = reducing.plan_of

    def watched(strategy, view):
        made = plan_of(strategy, view)
        kept.append(made.cluster >= 0)
        return made

    following = {"input_ids": torch.tensor([[5]]), "position_ids": torch.tensor([[len(ONE)]])}
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(reducing, "plan_of", watched)
        with fastadasp.load_strategy(name, **{"select.window": 4}).apply(model) as trace:
            out = model(**inputs, use_cache=True)
            cache = cache_of(out)
            ours = model(**following, **cache_argument(cache)).logits
    assert any(len({int(row.sum()) for row in layer}) > 1 for layer in kept)
    for layer, found in zip(kept, trace.layers, strict=True):
        counts = [int(row.sum()) + len(ONE) - 23 for row in layer]
        assert found.kv_length_per_sample == (sum(counts) / HEADS,)
        assert found.kv_columns_per_sample == (max(counts),)
        assert cache.layers[found.layer].keys.shape[-2] == max(counts) + 1
    with torch.no_grad():
        out = model(**inputs, use_cache=True)
        full = cache_of(out)
        for layer, held in zip(kept, full.layers, strict=True):
            for head in range(HEADS):
                gone = (~layer[head]).nonzero().flatten() + 5
                held.keys[:, head, gone] = 0
                held.values[:, head, gone] = 0
        hooks = []
        for layer, module in zip(kept, model.model.language_model.layers, strict=True):
            mask = torch.zeros(1, 2 * HEADS, 1, len(ONE) + 1)
            for head in range(2 * HEADS):
                mask[0, head, 0, (~layer[head // 2]).nonzero().flatten() + 5] = torch.finfo(torch.float32).min
            hooks.append(
                module.register_forward_pre_hook(
                    lambda module, args, kwargs, mask=mask: (args, {**kwargs, "attention_mask": mask}), with_kwargs=True
                )
            )
        theirs = model(**following, **cache_argument(full)).logits
        for hook in hooks:
            hook.remove()
    assert error(ours, theirs) <= 1e-5


def test_masks_by_head_are_refused_where_there_are_none(monkeypatch):
    monkeypatch.setattr(masks, "takes_padding", lambda implementation: True)
    with pytest.raises(fastadasp.ModelError, match="need a mask for each head, which 'sdpa' does not take"):
        masks.causal_mask("sdpa", None, torch.zeros(1, 1, 8), 4, torch.ones(1, 4, 4, dtype=torch.bool))


@pytest.mark.parametrize("name", ["adakv", "audiokv", "snapkv", "pyramidkv"])
def test_static_caches(name):
    """Generation over a static cache gives the tokens of the default one."""
    model, inputs = audio_model(), batch(*MANY)
    options = {"max_new_tokens": 5, "do_sample": False}
    with torch.no_grad(), fastadasp.load_strategy(name, **{"select.window": 4}).apply(model):
        plain = model.generate(**inputs, **options)
        assert plain.tolist() == model.generate(**inputs, **options, cache_implementation="static").tolist()


def test_a_later_turn_sees_what_each_head_kept():
    """Several tokens after the prompt at once, padded batch and alone, and one by one."""
    model, inputs = audio_model(), batch(*MANY)
    turn_ids = torch.tensor([[5, 9, 3]])

    def follow(given, pieces):
        rows, mask = len(given["attention_mask"]), given["attention_mask"]
        with torch.no_grad(), fastadasp.load_strategy("adakv", **{"select.window": 4}).apply(model):
            out = model(**given, use_cache=True)
            for piece in turn_ids.split(pieces, dim=1):
                mask = torch.nn.functional.pad(mask, (0, piece.shape[1]), value=1)
                out = model(
                    input_ids=piece.expand(rows, -1),
                    attention_mask=mask,
                    position_ids=(mask.cumsum(1) - 1)[:, -piece.shape[1] :],
                    **cache_argument(cache_of(out)),
                )
        return out.logits[:, -1]

    given = {**inputs, "position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)}
    together = follow(given, 3)
    assert error(together, follow(given, 1)) <= 1e-5
    for row, sample in enumerate(MANY):
        assert error(together[row], follow(batch(sample), 3)[0]) <= 1e-4
