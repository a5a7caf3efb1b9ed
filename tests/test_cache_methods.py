"""What evicts keys and values: each rule against an obvious reference, padded, with several clips and with beams."""

from __future__ import annotations

import math

import pytest
import torch
from test_plugins import component
from tiny import LAYERS, MANY, ONE, Sample, audio_model, batch, error

import fastadasp
from fastadasp import StrategyError, testing
from fastadasp.engine import masks, reducing
from fastadasp.engine.heads import by_head
from fastadasp.ops import turn
from fastadasp.upstream.names import cache_argument, cache_of

CACHE = sorted(
    entry.name
    for entry in fastadasp.get_registry().entries("strategy")
    if entry.value.site == "cache" and entry.origin.distribution == "fastadasp"
)
HEADS = 2


def seen(name, inputs, layer=1, model=None, **changed):
    """What a recipe's scorer gives at one layer, with the view by heads: (view, scores [clips x heads, N])."""
    found = []
    plan_of = reducing.plan_of

    def watched(strategy, view):
        found.append((view, strategy.select.importance(view)))
        return plan_of(strategy, view)

    model = model or audio_model("eager")
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(reducing, "plan_of", watched)
        with fastadasp.load_strategy(name, **{"layers.layer": layer}, **changed).apply(model):
            model(**inputs)
    return found[0]


def maps(inputs, layer=1):
    """Attention [B, heads, T, T] of the eager model."""
    with torch.no_grad():
        return audio_model("eager")(**inputs, output_attentions=True).attentions[layer]


def clips_of(view, inputs):
    """By clip: its number, sample, the real columns of that sample, and the clip's places among these."""
    whole = view.whole
    for row, (sample, start, n) in enumerate(
        zip(whole.spans.samples, whole.spans.start.tolist(), whole.spans.tokens, strict=True)
    ):
        columns = inputs["attention_mask"][sample].nonzero().flatten().tolist()
        yield row, sample, columns, [columns.index(start + i) for i in range(n)]


def shared(rows):
    """Means over the query heads of each key/value head: [heads, ...] -> [HEADS, ...]."""
    return rows.unflatten(0, (HEADS, -1)).mean(1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("window", "kernel"), [(4, 3), (8, 5), (64, 1)])
def test_window_attention(side, window, kernel):
    inputs = batch(*MANY, side=side)
    view, ours = seen("snapkv", inputs, **{"select.window": window, "select.kernel": kernel})
    full = maps(inputs)
    inside = 0
    for row, sample, columns, places in clips_of(view, inputs):
        own = full[sample][:, columns][:, :, columns]
        n, first = len(columns), max(len(columns) - window, 0)
        rows = own[:, first:].mean(1)
        rows[:, first:] = 0
        half = kernel // 2
        pooled = torch.stack([rows[:, max(t - half, 0) : t + half + 1].sum(1) / kernel for t in range(n)], 1)
        expected = shared(pooled)
        for head in range(HEADS):
            mine = ours[row * HEADS + head, : len(places)]
            for i, place in enumerate(places):
                if place < first:
                    assert float(mine[i]) == pytest.approx(float(expected[head, place]), rel=1e-4, abs=1e-6)
                else:
                    inside += 1
                    assert float(mine[i]) > 1
    assert (inside > 0) == (window > 4)


def test_an_average_has_a_middle():
    with pytest.raises(StrategyError, match="an average around a token takes an odd number of tokens"):
        fastadasp.load_strategy("snapkv", **{"select.kernel": 4})


@pytest.mark.parametrize("side", ["left", "right"])
def test_tova_has_one_choice_for_all_heads(side):
    inputs = batch(*MANY, Sample((4,), (9,), seed=7), side=side)  # the last one ends with audio
    view, ours = seen("tova", inputs)
    full = maps(inputs)
    for row, sample, columns, places in clips_of(view, inputs):
        last = full[sample][:, columns[-1]][:, columns].mean(0)
        for head in range(HEADS):
            for i, place in enumerate(places):
                expected = 2.0 if place == len(columns) - 1 else float(last[place])
                assert float(ours[row * HEADS + head, i]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_observed_attention_is_a_mean_over_the_queries_that_see_a_key(side):
    inputs = batch(*MANY, side=side)
    view, ours = seen("observed-attention", inputs)
    full = maps(inputs)
    for row, sample, columns, places in clips_of(view, inputs):
        own = full[sample][:, columns][:, :, columns].sum(1).unflatten(0, (HEADS, -1)).sum(1)
        for head in range(HEADS):
            for i, place in enumerate(places):
                expected = float(own[head, place]) / (len(columns) - place)
                assert float(ours[row * HEADS + head, i]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("parts", [{}, {"covariance": False}, {"values": False, "epsilon": 0.01, "sinks": 0}])
def test_expected_attention(side, parts):
    """In float64 from the model's own projections, sample by sample, positions counted from 0."""
    model, inputs = audio_model("eager"), batch(*MANY, side=side)
    own_positions = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    given = {**inputs, "position_ids": own_positions}
    view, ours = seen(
        "expected-attention", given, **{f"select.{k}": v for k, v in parts.items()}, **{"select.ahead": 30}
    )
    settings = component("scorer", "expected-attention", ahead=30, **parts)
    caught = {}
    attention = model.model.language_model.layers[1].self_attn
    hook = attention.register_forward_pre_hook(
        lambda module, args, kwargs: caught.update(states=kwargs["hidden_states"].double()), with_kwargs=True
    )
    with torch.no_grad():
        model(**given)
    hook.remove()
    size = attention.head_dim
    speed = 10000.0 ** (-torch.arange(0, size, 2).double() / size)

    def rotation(position):
        """The matrix that turns a head's channels at a position."""
        matrix = torch.zeros(size, size, dtype=torch.float64)
        for i, angle in enumerate((position * speed).tolist()):
            j = i + size // 2
            matrix[i, i] = matrix[j, j] = math.cos(angle)
            matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
        return matrix

    def project(layer, states):
        made = states @ layer.weight.double().T + (0 if layer.bias is None else layer.bias.double())
        return made.unflatten(-1, (-1, size)).transpose(0, 1)  # [heads, tokens, size]

    for row, sample, columns, places in clips_of(view, inputs):
        states, n, sinks = caught["states"][sample][columns], len(columns), settings.sinks
        query, key, value = (project(layer, states) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
        key = torch.stack([key[:, t] @ rotation(t).T for t in range(n)], 1)
        ahead = torch.stack([rotation(n + s) for s in range(30)]).mean(0)
        weights = []
        for head in range(len(query)):
            mine = query[head, sinks:]
            mean = ahead @ mine.mean(0)
            centred = mine - mine.mean(0)
            spread = ahead @ (centred.T @ centred / len(mine)) @ ahead.T
            keys = key[head * HEADS // len(query)]
            logits = keys @ mean / size**0.5
            if settings.covariance:
                logits = logits + ((keys @ spread) * keys).sum(1) / (2 * size)
            weights.append(torch.cat([torch.zeros(sinks), logits[sinks:].softmax(0)]))
        scores = shared(torch.stack(weights)) + settings.epsilon
        if settings.values:
            scores = scores * value.norm(dim=-1)
        for head in range(HEADS):
            for i, place in enumerate(places):
                found = float(ours[row * HEADS + head, i])
                if place < sinks:
                    assert found > float(scores.max())
                else:
                    assert found == pytest.approx(float(scores[head, place]), rel=1e-3, abs=1e-6)


def test_expected_attention_needs_a_rotation_it_knows():
    layer = testing.view_of((testing.Prompt((3, 2), (9,), 1),))
    layer.rotation = None
    with pytest.raises(StrategyError, match="needs queries that are turned by rotary embedding in halves"):
        component("scorer", "expected-attention").importance(layer)


def test_a_rotation_is_undone():
    layer = testing.view_of((testing.Prompt((3, 2), (9,), 1), testing.Prompt((5,), (4,), 2)))
    turned = torch.randn(2, 4, layer.states.shape[1], layer.query.shape[-1])
    cos, sin = layer.rotation.cos.unsqueeze(1), layer.rotation.sin.unsqueeze(1)
    assert torch.allclose(layer.rotation.undo(turn(turned, cos, sin)), turned, atol=1e-5)
    assert torch.equal(turn(turned, cos[..., :4], sin[..., :4])[..., 4:], turned[..., 4:])  # partly rotary


def test_streaming_llm_by_hand():
    """Of nine tokens with two sinks, four stay: the first two and the last two; with one kept it is the first."""
    layer = testing.view_of((testing.Prompt((3, 2), (9,), 1), testing.Prompt((3,), (3,), 2)), remove=[5, 2])
    scores = component("scorer", "sinks-and-recent", sinks=2).importance(layer)
    made = component("merger", "drop").plan(layer, scores.masked_fill(~layer.valid, math.inf), None, layer.remove)
    assert made.cluster.tolist() == [[0, 1, -1, -1, -1, -1, -1, 2, 3], [0, -1, -1, *[-1] * 6]]


def test_knorm_keeps_small_keys_of_each_head():
    layer = by_head(testing.view_of((testing.Prompt((3, 2), (9,), 1),)))
    ours = component("scorer", "key-norm", prefer="short").importance(layer)
    assert torch.allclose(ours, -layer.whole.keys[0].norm(dim=-1).T, atol=1e-6)


def test_pyramid_by_hand():
    pyramid = component("schedule", "pyramid", beta=2, window=8)
    assert pyramid.counts(77, 0.6, 0, 4) == (46, 36, 26, 15)
    assert component("schedule", "pyramid", window=8).counts(77, 0.3, 0, 4) == (69, 59, 49, 39)
    assert component("schedule", "pyramid", window=8).counts(77, 0.6, 0, 4) == (31, 31, 31, 31)  # lo is 1.54, below 8
    assert pyramid.counts(80, 0.5, 1, 3) == (80, 60, 20)
    ratios = component("schedule", "pyramid", beta=2).ratios(0.5, 0, 3)
    assert [round(1 - r, 6) for r in ratios] == [0.75, round(0.5 / 0.75, 6), 0.5]  # 3/4, 1/2, 1/4 of the tokens
    assert pyramid.counts(77, 0.6, 3, 4) == (77, 77, 77, 31)


def test_pyramidkv_counts_in_the_model():
    """Counts fall from layer to layer, and meet half of the bytes where that is asked for."""
    with torch.no_grad(), fastadasp.load_strategy("pyramidkv", kv=0.4).apply(audio_model()) as trace:
        audio_model()(**batch(ONE))
    kept = [layer.kv_length for layer in trace.layers]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1]
    assert abs(sum(kept) / (LAYERS * len(ONE)) - 0.6) <= 0.5 / len(ONE)


@pytest.mark.parametrize("name", CACHE)
def test_decoding_in_a_padded_batch_is_as_alone(name):
    """Logits of tokens that are fed after the prompt, which see only what each head kept."""
    model, inputs = audio_model(), batch(*MANY)

    def decode(given):
        with torch.no_grad(), fastadasp.load_strategy(name).apply(model):
            out = model(**given, use_cache=True)
            mask, steps = given["attention_mask"], []
            for token in (5, 9, 3):
                mask = torch.nn.functional.pad(mask, (0, 1), value=1)
                out = model(
                    input_ids=torch.full((len(mask), 1), token),
                    attention_mask=mask,
                    **cache_argument(cache_of(out)),
                    position_ids=mask.sum(1, keepdim=True) - 1,
                )
                steps.append(out.logits[:, -1])
        return torch.stack(steps, 1)

    together = decode({**inputs, "position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)})
    for row, sample in enumerate(MANY):
        assert error(together[row], decode(batch(sample))[0]) <= 1e-4


@pytest.mark.parametrize("name", CACHE)
def test_beams(name):
    """Beam search in a padded batch gives each sample what it gives alone, and what it gives row by row."""
    model, inputs = audio_model(), batch(*MANY)
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False}
    with torch.no_grad(), fastadasp.load_strategy(name).apply(model):
        together = model.generate(**inputs, **options)[:, -5:]
        for row, sample in enumerate(MANY):
            assert together[row].tolist() == model.generate(**batch(sample), **options)[0, -5:].tolist()


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
