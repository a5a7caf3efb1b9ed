"""Scores that cost less: a share of the queries, or scores of an earlier layer."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import LAYERS, MANY, ONE, Sample, audio_model, batch, embed, strategy

import fastadasp
from fastadasp.engine import reducing
from fastadasp.engine.adjacent import cosine_to_next_key
from fastadasp.engine.received import received_attention
from fastadasp.engine.spans import find_spans


def _random(rows: int, heads: int, groups: int, length: int, past: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return 3 * torch.randn(rows, heads, length, 8), torch.randn(rows, groups, past + length, 8)


def _columns_of(query: torch.Tensor, key: torch.Tensor, chosen: list[int]) -> torch.Tensor:
    """Column sums over the chosen queries of one sample without padding, from the whole matrix."""
    heads, length, total = query.shape[1], query.shape[2], key.shape[2]
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    seen = torch.ones(length, total).tril(total - length).bool()
    weights = (query @ key.transpose(-1, -2) * 0.3).masked_fill(~seen, -math.inf).softmax(-1)
    return weights[:, :, chosen].sum((1, 2)) * (length / len(chosen))


@pytest.mark.parametrize("past", [0, 5])
@pytest.mark.parametrize("length", [1, 16, 17, 300])
@pytest.mark.parametrize(("which", "share"), [("strided", 0.25), ("last", 0.25), ("strided", 1.0), ("last", 0.01)])
def test_a_share_of_the_queries(which: str, share: float, length: int, past: int) -> None:
    query, key = _random(1, 4, 2, length, past)
    ours = received_attention(query, key, 0.3, share=share, which=which)  # type: ignore[arg-type]
    every = round(1 / share)
    chosen = (
        list(range(length))[::-1][::every] if which == "strided" else range(length - math.ceil(share * length), length)
    )
    assert torch.allclose(ours, _columns_of(query, key, list(chosen)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("which", ["strided", "last"])
def test_a_share_in_a_padded_batch_is_that_of_the_sample_alone(which: str, side: str) -> None:
    query, key = _random(3, 4, 2, 40)
    counts = (40, 23, 9)
    steps = torch.arange(40)
    valid = torch.stack([steps >= 40 - n if side == "left" else steps < n for n in counts])
    whole = received_attention(query, key, 0.3, valid, share=0.3, which=which)  # type: ignore[arg-type]
    for row, shown in enumerate(valid):
        one = (query[row : row + 1, :, shown], key[row : row + 1, :, shown])
        alone = received_attention(*one, 0.3, share=0.3, which=which)  # type: ignore[arg-type]
        assert torch.allclose(whole[row, shown], alone[0], rtol=1e-4, atol=1e-5)
        assert not bool(whole[row, ~shown].any())


def test_cosine_to_the_next_key() -> None:
    spans = find_spans(torch.tensor([[0, 1, 1, 1, 0, 2, 2], [0, 0, 0, 0, 0, 0, 1]]), None)
    key = torch.randn(2, 3, 7, 4)
    ours = cosine_to_next_key(key, spans)
    flat = key.transpose(1, 2).flatten(2)
    for clip, (row, start, count) in enumerate(((0, 1, 3), (0, 5, 2), (1, 6, 1))):
        for i in range(count - 1):
            pair = torch.cosine_similarity(flat[row, start + i], flat[row, start + i + 1], dim=0)
            assert torch.allclose(ours[clip, i], pair, atol=1e-6)
    assert ours.shape == (3, 2)


class Recorder(fastadasp.Scorer):
    """Gives what a scorer gives, and remembers it."""

    name = "recorder"
    gives = ("importance",)

    def importance(self, layer: fastadasp.LayerView) -> torch.Tensor:
        scores = self.scorer.importance(layer)
        self.seen.append((layer.layer_index, scores, layer.tokens, layer.received_attention()))
        return scores


def _recorded(name: str, **parameters: object) -> list[tuple[int, torch.Tensor, tuple[int, ...], torch.Tensor]]:
    method = strategy(name, schedule="constant", budget=0.6)
    spy = Recorder()
    object.__setattr__(spy, "scorer", type(method.select if name == "prune" else method.weight)(**parameters))
    object.__setattr__(spy, "seen", [])
    method = method.model_copy(update={"select" if name == "prune" else "weight": spy})
    with torch.no_grad(), method.apply(audio_model()):
        audio_model()(**batch(*MANY))
    return spy.seen


@pytest.mark.parametrize("name", ["weighted", "prune"])
def test_scores_of_an_earlier_layer_follow_the_tokens(name: str) -> None:
    """The sum over a clip's tokens stays when tokens merge; what is dropped takes its own score along."""
    seen = _recorded(name, layers=2)
    assert [layer for layer, *_ in seen] == list(range(1, LAYERS))
    (_, first, before, exact), (_, second, after, own), (_, third, last, fresh) = seen
    assert torch.equal(first, exact)
    assert torch.equal(third, fresh)  # two layers later it is scored anew
    assert not torch.allclose(second, own)
    for clip, (n, m, k) in enumerate(zip(before, after, last, strict=True)):
        assert n > m > k
        kept = second[clip, :m]
        if name == "weighted":
            assert torch.allclose(kept.sum(), first[clip, :n].sum(), rtol=1e-5)
        else:
            assert sorted(kept.tolist()) == sorted(first[clip, :n].tolist())[n - m :]


def test_layers_of_one_is_each_layers_own() -> None:
    for _, scores, _, exact in _recorded("weighted"):
        assert torch.equal(scores, exact)


@pytest.mark.parametrize("parameters", [{"queries": 0.5}, {"queries": 0.3, "which": "last"}, {"layers": 3}])
@pytest.mark.parametrize("name", ["weighted", "prune", "cache", "fastadasp-dense"])
def test_cheap_scores_give_a_clip_the_same_in_a_batch(name: str, parameters: dict[str, object]) -> None:
    place = "select" if name in ("prune", "cache") else "weight"
    method = strategy(name).replace(**{place: {"name": "received-attention", **parameters}})
    model, samples = audio_model(), (ONE, Sample((3, 4), (11,), seed=2))
    with torch.no_grad(), method.apply(model):
        together = model(**batch(*samples)).logits[:, -1]
        for row, sample in enumerate(samples):
            alone = model(**batch(sample)).logits[0, -1]
            assert torch.allclose(together[row], alone, atol=1e-4)


def _taken_along(monkeypatch: pytest.MonkeyPatch, name: str, *samples: Sample, **changes: object) -> list[int]:
    """In which layers the scores were taken along with the attention; results are as without."""
    method, model, inputs = strategy(name).replace(**changes), audio_model(), batch(*samples)
    layers: list[int] = []

    def spy(*given: torch.Tensor, real=reducing.attend) -> tuple[torch.Tensor, torch.Tensor]:
        layers.append(given[0].shape[2])
        return real(*given)

    found = []
    for fused in (True, False):
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(reducing, "attend", spy)
            if not fused:
                patch.setattr(reducing, "can_attend", lambda *_: False)
            with method.apply(model) as trace:
                found.append((model(**inputs).logits, [layer.audio_tokens_per_sample for layer in trace.layers]))
    (ours, counts), (apart, same) = found
    assert counts == same
    assert torch.allclose(ours, apart, atol=1e-4)
    return layers


@pytest.mark.parametrize("site", ["block", "input"])
@pytest.mark.parametrize("name", ["weighted", "prune", "fastadasp-dense"])
def test_scores_are_taken_along_with_the_attention(name: str, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = _taken_along(monkeypatch, name, ONE, site=site)
    assert lengths
    assert lengths[0] == len(ONE)
    assert lengths == sorted(lengths, reverse=True)


def test_scores_are_not_taken_along_where_they_are_not_asked_or_rows_are_padded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cheap = {"name": "received-attention", "queries": 0.5}
    assert _taken_along(monkeypatch, "weighted", ONE, weight=cheap) == []
    assert _taken_along(monkeypatch, "weighted", ONE, weight={"name": "uniform"}) == []
    assert _taken_along(monkeypatch, "weighted", *MANY) == []
    assert _taken_along(monkeypatch, "cache", ONE) == []


def test_a_model_that_learns_computes_its_own_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reducing, "attend", lambda *_: pytest.fail("it would give no gradient"))
    model = audio_model()
    embeds, spans = embed(model, batch(ONE))
    learning = embeds.detach().requires_grad_(True)
    with strategy("weighted").apply(model, spans=spans):
        model(inputs_embeds=learning).logits.sum().backward()
    assert learning.grad is not None
    assert float(learning.grad.abs().sum()) > 0


@pytest.mark.parametrize("bad", [{"queries": 0}, {"queries": 1.5}, {"which": "first"}, {"layers": 0}])
def test_wrong_parameters(bad: dict[str, object]) -> None:
    with pytest.raises(fastadasp.StrategyError, match=next(iter(bad))):
        fastadasp.load_strategy("prune", select={"name": "received-attention", **bad})
