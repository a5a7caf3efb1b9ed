"""What the audio encoder's attention says of tokens, and the methods that go by it: parity in float64."""

from __future__ import annotations

import json
from functools import lru_cache, partial

import pytest
import torch
from test_plugins import component
from tiny import MANY, ONE, Sample, audio_model, batch, error, text_model

import fastadasp
from fastadasp import ModelError, StrategyError
from fastadasp.engine import reducing
from fastadasp.engine.encoder import EncoderSeen
from fastadasp.engine.encoding import listening
from fastadasp.models.lookup import adapter_for

METHODS = ("sa-map-encoder", "visionzip-encoder", "vispruner", "cdpruner", "segment-topk-encoder")
ODD = Sample((3, 2), (15,), seed=9)


@lru_cache
def embedded():
    """The embedded model, and the inputs of two clips of its test set."""
    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    from fastadasp.audio import read_audio
    from fastadasp.demo import data_path, model_path, prompts

    model = Qwen2AudioForConditionalGeneration.from_pretrained(model_path(), local_files_only=True).eval()
    processor = AutoProcessor.from_pretrained(model_path(), local_files_only=True)
    lines = (data_path() / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["task"] == "asr"][:2]
    rate = processor.feature_extractor.sampling_rate
    inputs = processor(
        text=[prompts.build_prompt(prompts.INSTRUCTIONS["asr"][0])] * 2,
        audio=[read_audio(data_path() / row["audio_filepath"], rate) for row in rows],
        sampling_rate=rate,
        return_tensors="pt",
        padding=True,
    )
    return model, inputs


def small():
    """A random encoder, and prompts of which one clip's last frame became no token."""
    inputs = batch(*MANY, ODD)
    inputs["feature_attention_mask"][-1, 60:62] = 1  # 62 mel frames: 31 of the encoder, 15 tokens
    return audio_model(), inputs


MODELS = {"random": small, "embedded": embedded}


def published(model, inputs):
    """By clip, in float64: the encoder's last attention [heads, F, F], its keys, valid frames, projected tokens.

    Computed from the layer's own projections and weights, with nothing of this package.
    """
    tower = model.model.audio_tower
    layer, caught = tower.layers[-1], {}
    hook = layer.self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: caught.update(states=(args or [kwargs["hidden_states"]])[0]), with_kwargs=True
    )
    projected = []
    other = model.model.multi_modal_projector.register_forward_hook(
        lambda module, args, output: projected.append(output)
    )
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    other.remove()
    attention, out = layer.self_attn, []
    mel = inputs["feature_attention_mask"].sum(1).tolist()
    for row, count in enumerate(mel):
        frames = (count - 1) // 2 + 1
        states = caught["states"][row].double()

        def project(linear, states=states):
            made = states @ linear.weight.double().T + (0 if linear.bias is None else linear.bias.double())
            return made.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)

        query, key = project(attention.q_proj), project(attention.k_proj)
        logits = query @ key.transpose(1, 2) * attention.head_dim**-0.5
        logits[:, :, frames:] = float("-inf")
        tokens = (frames - 2) // 2 + 1
        out.append((logits.softmax(-1), key, frames, projected[-1][row, :tokens].double()))
    return out


def tokens_of(weights):
    """[F, F] of frames as [N, N] of tokens: the mean over the frames that ask, the sum over those asked about."""
    n = len(weights) // 2
    return weights[: 2 * n, : 2 * n].reshape(n, 2, n, 2).mean(1).sum(-1)


def views(model, inputs, name="vispruner", **changed):
    """The view at layer 0, with the recipe's plan."""
    found = []
    plan_of = reducing.plan_of

    def watched(strategy, view):
        made = plan_of(strategy, view)
        found.append((view, made))
        return made

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(reducing, "plan_of", watched)
        with fastadasp.load_strategy(name, **changed).apply(model):
            model(**inputs)
    return found[0]


@pytest.mark.parametrize("which", MODELS)
@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"heads": "max", "frames": "all"}, lambda a, f, n: tokens_of(a.amax(0)).sum(0)),
        ({"heads": "max", "frames": "tokens"}, lambda a, f, n: tokens_of(a.amax(0))[:n].sum(0)),
        (
            {"heads": "mean", "frames": "valid"},
            lambda a, f, n: a.mean(0)[:f].sum(0)[: len(a[0]) // 2 * 2].view(-1, 2).mean(1),
        ),
        ({"of": "own"}, lambda a, f, n: tokens_of(a.mean(0)).diagonal()),
        ({"of": "own", "heads": "max"}, lambda a, f, n: tokens_of(a.amax(0)).diagonal()),
    ],
)
def test_encoder_attention_against_its_formula(which, options, rule):
    """Up to the constants that no choice depends on: VisPruner and SA-MAP divide by the number of tokens that ask."""
    model, inputs = MODELS[which]()
    view, _ = views(model, inputs)
    ours = component("scorer", "encoder-attention", **options).importance(view)
    for row, (weights, _, frames, projected) in enumerate(published(model, inputs)):
        n = len(projected)
        assert view.tokens[row] == n
        theirs = rule(weights, frames, n)[:n]
        assert error(ours[row, :n].double(), theirs) <= 1e-5


@pytest.mark.parametrize("which", MODELS)
def test_keys_of_the_encoder(which):
    model, inputs = MODELS[which]()
    view, _ = views(model, inputs)
    for row, (_, key, _, projected) in enumerate(published(model, inputs)):
        n = len(projected)
        theirs = key.mean(0)[: 2 * n].view(n, 2, -1).mean(1)
        assert error(view.of_encoder().keys[row, :n].double(), theirs) <= 1e-5


# ---- the methods, by the published formulas ----


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def greedy(kernel, count):
    """Greedy MAP by determinants of growing sets (log-determinants, from the Cholesky factor)."""
    picks, c, gain = [], [], kernel.diagonal().clone()
    for _ in range(count):
        pick = int(gain.argmax())
        new = (kernel[pick] - sum((row[pick] * row for row in c), torch.zeros_like(gain))) / gain[pick].sqrt()
        picks.append(pick)
        c.append(new)
        gain = gain - new.square()
        gain[picks] = -float("inf")
    return sorted(picks)


def vispruner(weights, key, frames, x, keep):
    important = round(keep * 0.5)
    scores = tokens_of(weights.amax(0)).mean(0)[: len(x)]
    order = scores.argsort(descending=True).tolist()
    rest, diverse = sorted(order[important:]), keep - important
    while diverse > 0 and (r := min(4, len(rest) - diverse)) > 0:
        a, b = rest[::2], rest[1::2]
        best = (unit(x[a]) @ unit(x[b]).T).amax(1).argsort(descending=True)[:r]
        rest = sorted(set(rest) - {a[i] for i in best.tolist()})
    return [({i}, {i: 1.0}) for i in sorted(order[:important] + (rest if diverse else []))]


def cdpruner(weights, key, frames, x, keep):
    kernel = unit(x) @ unit(x).T
    kernel.fill_diagonal_(1.0)
    return [({i}, {i: 1.0}) for i in greedy(kernel, keep)]


def visionzip(weights, key, frames, x, keep):
    n = len(x)
    scores = weights.mean(0)[:frames].sum(0)[: 2 * n].view(n, 2).mean(1)
    targets = max(int(0.05 * n), 1)
    dominant = scores.topk(keep - targets).indices.tolist()
    rest = sorted(set(range(n)) - set(dominant))
    step = max(1, len(rest) // targets)
    chosen = rest[::step][:targets]
    keys = unit(key.mean(0)[: 2 * n].view(n, 2, -1).mean(1))
    joined = {t: [] for t in chosen}
    for i in rest:
        if i not in joined:
            joined[chosen[int((keys[chosen] @ keys[i]).argmax())]].append(i)
    out = [({i}, {i: 1.0}) for i in dominant]
    out += [({t, *own}, {t: 1.0, **dict.fromkeys(own, 1 / max(len(own), 1))}) for t, own in joined.items()]
    return sorted(out, key=lambda group: min(group[0]))


def sa_map(weights, key, frames, x, keep, threshold):
    n = len(x)
    merge = tokens_of(weights.amax(0))[:n].sum(0)[:n]
    judge = tokens_of(weights.mean(0)).diagonal()[:n]
    cosine = unit(x) @ unit(x).T
    groups = [[0]]
    for i in range(1, n):
        if float(cosine[groups[-1], i].mean()) >= threshold:
            groups[-1].append(i)
        else:
            groups.append([i])
    means = torch.stack([(merge[g, None] * x[g]).sum(0) / merge[g].sum() for g in groups])
    relevance = torch.stack([judge[g].mean() for g in groups])
    picks = greedy(relevance[:, None] * (unit(means) @ unit(means).T) * relevance, min(keep, len(groups)))
    return [(set(groups[g]), {i: float(merge[i] / merge[groups[g]].sum()) for i in groups[g]}) for g in picks]


def segment_topk(weights, key, frames, x, keep):
    n = len(x)
    scores = weights.mean(0)[:frames].sum(0)[: 2 * n].view(n, 2).mean(1)
    whole = [sorted(range(s, min(s + 25, n)), key=lambda i: -float(scores[i])) for s in range(0, n, 25)]
    counts = [keep * len(part) // n for part in whole]
    over = sorted(
        range(len(whole)),
        key=lambda s: (-((keep * len(whole[s])) % n), -float(scores[whole[s][min(counts[s], len(whole[s]) - 1)]])),
    )
    for s in over[: keep - sum(counts)]:
        counts[s] += 1
    return [({i}, {i: 1.0}) for i in sorted(i for part, count in zip(whole, counts, strict=True) for i in part[:count])]


RULES = dict(zip(METHODS, (sa_map, visionzip, vispruner, cdpruner, segment_topk), strict=True))


@pytest.mark.parametrize("which", MODELS)
@pytest.mark.parametrize("budget", [0.4, 0.6])
@pytest.mark.parametrize("name", METHODS)
def test_parity_with_the_published_formula(name, budget, which):
    """What reaches the decoder, cluster by cluster, to 1e-5."""
    model, inputs = MODELS[which]()
    threshold = {"random": 0.85, "embedded": 0.98}[which]
    changed = {"merger.threshold": threshold} if name == "sa-map-encoder" else {}
    view, plan = views(model, inputs, name, budget=budget, **changed)
    compared = 0
    for row, (weights, key, frames, x) in enumerate(published(model, inputs)):
        n = len(x)
        keep = n - int(view.remove[row])
        rule = RULES[name] if name != "sa-map-encoder" else partial(sa_map, threshold=threshold)
        theirs = rule(weights, key, frames, x, keep)
        if len(theirs) != keep:  # the threshold alone takes more than asked for; ours then joins fewer
            continue
        ours = plan.cluster[row, :n].tolist()
        assert [{i for i in range(n) if ours[i] == c} for c in range(keep)] == [members for members, _ in theirs]
        share = torch.ones(n) if plan.weight is None else plan.weight[row, :n]
        for members, shares in theirs:
            own = sorted(members)
            mine = share[own].double() / (1 if plan.shares else share[own].double().sum())
            assert error(view.hidden[row, own].double().T @ mine, sum(x[i] * shares[i] for i in own)) <= 1e-5
        compared += 1
    assert compared >= 1


@pytest.mark.parametrize("name", METHODS)
def test_what_the_decoder_gets_is_the_sum_of_shares(name):
    """The first layer's input: text as it was, each cluster by its shares."""
    model, inputs = audio_model(), batch(ONE)
    caught = {}
    hook = model.model.language_model.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda m, a: None)
    norm = model.model.language_model.layers[0].input_layernorm.register_forward_pre_hook(
        lambda module, args: caught.update(states=args[0])
    )
    view, plan = views(model, inputs, name)
    hook.remove()
    norm.remove()
    n = 23
    clusters, width = plan.cluster[0, :n], int(plan.cluster.max()) + 1
    share = torch.ones(n) if plan.weight is None else plan.weight[0, :n]
    for c in range(width):
        own = (clusters == c).nonzero().flatten()
        w = share[own] / (1 if plan.shares else share[own].sum())
        assert torch.allclose(caught["states"][0, 5 + c], (w[:, None] * view.hidden[0, own]).sum(0), atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_padded_batches_beams_and_generation(name):
    model, inputs = audio_model(), batch(*MANY)
    for options in ({}, {"num_beams": 3}):
        with torch.no_grad(), fastadasp.load_strategy(name).apply(model):
            together = model.generate(**inputs, max_new_tokens=4, do_sample=False, **options)[:, -4:]
            for row, sample in enumerate(MANY):
                alone = model.generate(**batch(sample), max_new_tokens=4, do_sample=False, **options)[0, -4:]
                assert together[row].tolist() == alone.tolist()


def test_who_cannot_show_its_encoder_is_refused_by_name():
    with (
        pytest.raises(
            ModelError, match="'vispruner' looks at the attention of the audio encoder, which models of type 'qwen2'"
        ),
        fastadasp.load_strategy("vispruner").apply(text_model()),
    ):
        pass
    assert audio_model().config.audio_config._attn_implementation == "sdpa"


def test_the_encoder_is_as_before():
    model, inputs = audio_model(), batch(ONE)
    plain = model(**inputs).logits
    with fastadasp.load_strategy("vispruner").apply(model):
        assert model.model.audio_tower.config._attn_implementation.startswith("fastadasp")
        model(**inputs)
    assert model.model.audio_tower.config._attn_implementation == "sdpa"
    assert torch.equal(model(**inputs).logits, plain)


def test_listening_beside_a_strategy_leaves_it_at_work():
    model, inputs = small()
    method = fastadasp.load_strategy("visionzip-encoder")
    with method.apply(model):
        expected = model(**inputs).logits
    with method.apply(model):
        with listening(adapter_for(model), model) as heard:
            assert torch.equal(model(**inputs).logits, expected)
        assert heard.calls
        assert torch.equal(model(**inputs).logits, expected)


def test_after_a_reduction_the_encoder_is_not_known():
    model = audio_model()
    with (
        fastadasp.load_strategy("segment-topk-encoder", **{"schedule": "constant", "budget": "ratio=0.3"}).apply(model),
        pytest.raises(
            StrategyError, match="'encoder-attention' needs the audio encoder's attention, which is known before"
        ),
    ):
        model(**batch(ONE))


def test_embeddings_need_what_the_encoder_saw():
    """Without it they are refused in words; with it they give what the recordings give."""
    model, inputs = audio_model(), batch(ONE)
    view, _ = views(model, inputs)
    embeds, spans = view.states, (inputs["input_ids"] == 1).long()
    method = fastadasp.load_strategy("vispruner")
    with method.apply(model, spans=spans), pytest.raises(StrategyError, match=r"apply\(model, encoder=\.\.\.\)"):
        model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])
    with torch.no_grad(), method.apply(model):
        expected = model(**inputs).logits[:, -1]
    with torch.no_grad(), method.apply(model, spans=spans, encoder=view.encoder):
        given = model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits[:, -1]
    assert error(given, expected) <= 1e-6


def test_clips_are_put_together_and_taken_apart():
    seen = [
        EncoderSeen.of(torch.randn(1, 2, 2 * n + odd, 4), torch.randn(1, 2, 2 * n + odd, 4), 0.5, None, 2)
        for n, odd in ((3, 0), (5, 1))
    ]
    both = EncoderSeen.together(seen)
    for i, (one, n) in enumerate(zip(seen, (3, 5), strict=True)):
        again = both.clip(i, n)
        assert torch.equal(again.received, one.received)
        assert torch.equal(again.keys, one.keys)
        assert torch.equal(again.own, one.own)


def test_no_square_of_frames_is_kept():
    """Streaming in small blocks gives the same sums."""
    query, key = torch.randn(2, 3, 21, 4), torch.randn(2, 3, 21, 4)
    mask = (torch.arange(21) < torch.tensor([[21], [13]])).view(2, 1, 1, 21)
    whole = EncoderSeen.of(query, key, 0.5, mask, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastadasp.engine.encoder._ELEMENTS", 300)
        blocks = EncoderSeen.of(query, key, 0.5, mask, 2)
    for name in ("received", "own", "keys"):
        assert torch.allclose(getattr(whole, name), getattr(blocks, name), atol=1e-6)
    additive = torch.zeros(2, 1, 21, 21).masked_fill(~mask, torch.finfo(torch.float32).min)
    assert torch.equal(EncoderSeen.of(query, key, 0.5, additive, 2).received, whole.received)


def test_commands_keep_what_the_encoder_saw(monkeypatch, tmp_path):
    """Clips that were encoded before, by this process or another, give what recordings give."""
    from fastadasp.contracts.task import Example
    from fastadasp.demo import data_path, model_path
    from fastadasp.inference.clips import prepare
    from fastadasp.inference.load import load_model
    from fastadasp.inference.runner import run_cell

    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path))
    loaded = load_model(str(model_path()))
    lines = (data_path() / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    path = data_path() / next(row for row in map(json.loads, lines) if row["task"] == "asr")["audio_filepath"]
    examples = [Example(f"clip-{i}", path, text, "x") for i, text in enumerate(("Write down what is said.", "Say it."))]
    first, again = (prepare(loaded, examples, 2, lambda _: None) for _ in range(2))
    for key, clip in first.items():
        for name in ("received", "own", "keys"):
            assert torch.equal(getattr(clip.encoder, name), getattr(again[key].encoder, name))
        assert clip.encoder.keys.shape[1] == clip.audio_tokens
    method = fastadasp.load_strategy("vispruner")
    cells = [
        run_cell(loaded, method, list(ready.values()), max_new_tokens=6, batch_size=2, progress=lambda _: None)
        for ready in (first, again)
    ]
    assert cells[0].predictions == cells[1].predictions
    for cost in cells[0].costs:
        assert abs(cost.audio_tokens_left - cost.audio_tokens / 2) <= 0.5


@pytest.mark.parametrize("name", [name for name in METHODS if name != "cdpruner"])
def test_features_alone_have_no_encoder(name):
    assert "needs the attention of the audio encoder" in fastadasp.load_strategy(name).why_not_on_features(10)
    assert fastadasp.load_strategy("cdpruner").why_not_on_features(10) is None
