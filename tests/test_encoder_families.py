"""The encoder's attention in every family that shows it: float64, windows, padding, clips of unequal length, beams."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from family_models import FAMILIES, family_model, installed
from tiny import AUDIO, MEL_BINS, PAD, error, strategy, strategy_names
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from fastadasp import ModelError
from fastadasp.engine import reducing
from fastadasp.engine.attention import unwatch, watch
from fastadasp.engine.encoder import EncoderCall, EncoderSeen
from fastadasp.models.lookup import adapter_for
from fastadasp.strategy import get_registry

METHODS = [name for name in strategy_names() if "encoder" in strategy(name).needs()]
calls: list[tuple[torch.Tensor, torch.Tensor]] = []


def whole(module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
    """Attention by its definition, which keeps the whole of its weights and its keys."""
    logits = query @ key.transpose(2, 3) * kwargs["scaling"]
    weights = (logits if attention_mask is None else logits + attention_mask).softmax(-1)
    calls.append((weights, key))
    return (weights @ value).transpose(1, 2), weights


AttentionInterface.register("whole", whole)
AttentionMaskInterface.register("whole", eager_mask)


@dataclass(frozen=True)
class Heard:
    """Two clips of unequal length.

    Attributes:
        frames: of a token.
        inputs: what the model is given for both, and for each alone.
        windows: of each clip, for each window its frames, those of the recording, and the tokens.
    """

    frames: int
    inputs: tuple[dict[str, Any], ...]
    windows: tuple[tuple[tuple[int, int, int], ...], ...]

    @property
    def tokens(self) -> list[int]:
        return [sum(tokens for _, _, tokens in clip) for clip in self.windows]


def features(name: str, mask: str | None, width: int, counts: tuple[int, ...], **more: Any) -> tuple[dict, ...]:
    """Random features [2, bins, width] under a mask with so many ones in each row; both, and each row alone."""
    rows = len(counts) if mask else 3
    both: dict[str, Any] = {name: torch.randn(rows, MEL_BINS, width, generator=torch.Generator().manual_seed(5))}
    if mask is not None:
        both[mask] = (torch.arange(width) < torch.tensor(counts).unsqueeze(1)).long()
    both |= more
    if mask is None:  # three windows, two of them the first clip's
        return both, {name: both[name][:2]}, {name: both[name][2:]}
    return both, *({key: value[i : i + 1] for key, value in both.items()} for i in range(2))


def turned(inputs: tuple[dict, ...], name: str, axes: tuple[int, int] = (1, 2)) -> tuple[dict, ...]:
    """The features with time before bins."""
    return tuple({k: v.transpose(*axes) if k == name else v for k, v in one.items()} for one in inputs)


FEATURES, MASK = "input_features", "input_features_mask"
OMNI = features(FEATURES, "feature_attention_mask", 200, (200, 130))
HEARD = {
    "qwen2_audio": lambda: Heard(
        2, features(FEATURES, "feature_attention_mask", 80, (80, 61)), (((40, 40, 20),), ((40, 31, 15),))
    ),
    "audioflamingo3": lambda: Heard(2, features(FEATURES, MASK, 80, (80, 61)), (((40, 40, 20),), ((40, 31, 15),))),
    "musicflamingo": lambda: Heard(2, features(FEATURES, MASK, 80, (80, 61)), (((40, 40, 20),), ((40, 31, 15),))),
    "voxtral": lambda: Heard(4, features(FEATURES, None, 80, ()), (((40, 40, 10), (40, 40, 10)), ((40, 40, 10),))),
    "glmasr": lambda: Heard(4, features(FEATURES, MASK, 80, (80, 61)), (((40, 40, 10),), ((40, 28, 7),))),
    "moss_transcribe_diarize": lambda: Heard(
        4,
        features(FEATURES, MASK, 80, (80, 50), padding_mask=(torch.arange(800) < torch.tensor([[800], [500]])).long()),
        (((40, 40, 10),), ((40, 28, 7),)),
    ),
    "qwen3_asr": lambda: Heard(
        1, features(FEATURES, MASK, 200, (200, 130)), (((13, 13, 13), (13, 13, 13)), ((13, 13, 13), (4, 4, 4)))
    ),
    "qwen2_5_omni_thinker": lambda: Heard(
        2,
        features(FEATURES, "feature_attention_mask", 80, (80, 50)),
        (((20, 20, 10), (20, 20, 10)), ((20, 20, 10), (5, 5, 2))),
    ),
    "qwen3_omni_moe_thinker": lambda: Heard(1, OMNI, (((26, 26, 26),), ((17, 17, 17),))),
    "fun_asr_nano": lambda: Heard(
        1,
        tuple(
            {FEATURES: one[FEATURES].repeat(1, 1, 2), MASK: one[MASK]}
            for one in turned(features(FEATURES, MASK, 16, (16, 9)), FEATURES)
        ),
        (((16, 16, 16),), ((16, 9, 9),)),
    ),
    "phi4_multimodal": lambda: Heard(
        1,
        turned(
            features(
                "audio_input_features", "audio_attention_mask", 48, (48, 30), audio_embed_sizes=torch.tensor([12, 8])
            ),
            "audio_input_features",
        ),
        (((12, 12, 12),), ((12, 8, 8),)),
    ),
    "omniasr": lambda: Heard(
        1,
        tuple(
            {"input_values": one["x"][:, :1], "padding_mask": one["padding_mask"]}
            for one in features("x", "padding_mask", 66, (66, 40))
        ),
        (((16, 16, 16),), ((16, 9, 9),)),
    ),
}
SHOWN = [name for name in installed() if name in HEARD]


def prompts(heard: Heard) -> list[dict[str, Any]]:
    """Both clips in a batch padded on the left, then each alone."""
    rows = [[5, 6, *[AUDIO] * n, 7, 8, 9][i:] for i, n in enumerate(heard.tokens)]
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    texts = [{"input_ids": ids, "attention_mask": (ids != PAD).long()}]
    texts += [{"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row)).long()} for row in rows]
    return [text | audio for text, audio in zip(texts, heard.inputs, strict=True)]


def seen_by(model: Any, inputs: dict[str, Any]) -> EncoderSeen:
    """What the engine shows at layer 0."""
    views: list[Any] = []
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(reducing, "plan_of", lambda recipe, view: views.append(view) or plan_of(recipe, view))
        with strategy("vispruner").apply(model):
            model(**inputs)
    return views[0].of_encoder()


plan_of = reducing.plan_of


def stop(*_: Any) -> None:
    raise StopIteration


def reference(name: str, inputs: dict[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """By window, in float64, all weights of the encoder's last attention [heads, F, F] and its keys [heads, F, d]."""
    model = copy.deepcopy(family_model(name)).double()
    adapter = adapter_for(model)
    tower = adapter.encoder_attention(model)
    tower.config._attn_implementation = "whole"
    calls.clear()
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    kept: list[Any] = []
    tower.register_forward_pre_hook(lambda *_: calls.clear())
    tower.register_forward_hook(lambda *_: kept.extend(calls))
    adapter.decoder(model).layers[0].register_forward_pre_hook(stop)  # experts do not compute in float64
    with torch.no_grad(), pytest.raises(StopIteration):
        model(**inputs)
    return [(row, own) for weights, key in kept for row, own in zip(weights, key, strict=True)]


def test_all_families_that_show_their_encoder_are_compared() -> None:
    usable = [e.value for e in get_registry().entries("model") if not e.value.refusal]
    shown = {adapter.name for adapter in usable if adapter.encoder_paths}
    assert shown - {"qwen2_5_omni", "qwen3_omni_moe"} == set(HEARD)  # with a talker: the same thinkers
    assert all(bool(adapter.encoder_paths) != bool(adapter.encoder_refusal) for adapter in usable)


@pytest.mark.parametrize("name", SHOWN)
def test_parity_in_float64(name: str) -> None:
    heard = HEARD[name]()
    ours, windows = seen_by(family_model(name), prompts(heard)[0]), reference(name, prompts(heard)[0])
    assert [len(weights[0]) for weights, _ in windows] == [size for clip in heard.windows for size, _, _ in clip]
    k = heard.frames
    for row, clip in enumerate(heard.windows):
        at = 0
        for _, valid, n in clip:
            weights, key = windows.pop(0)
            mine = slice(at, at + n)
            for i, together in enumerate((weights.mean(0), weights.amax(0))):
                for j, asked in enumerate((together, together[:valid], together[: valid // k * k])):
                    theirs = asked.sum(0)[: n * k].view(n, k).sum(1) / k
                    assert error(ours.received[row, i, j, mine], theirs) <= 1e-5
                own = torch.stack([together[t * k : t * k + k, t * k : t * k + k].sum() / k for t in range(n)])
                assert error(ours.own[row, i, mine], own) <= 1e-5
            assert error(ours.keys[row, mine], key.mean(0)[: n * k].view(n, k, -1).mean(1)) <= 1e-5
            at += n
    assert not windows


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SHOWN)
def test_each_clip_gets_what_it_gets_alone(name: str, method: str) -> None:
    heard = HEARD[name]()
    model, (both, *alone) = family_model(name), prompts(heard)
    with torch.no_grad(), strategy(method).apply(model) as trace:
        together = model(**both).logits[:, -1]
        left = [layer.audio_tokens_per_sample for layer in trace.layers][-1]
        for row, one in enumerate(alone):
            assert error(together[row], model(**one).logits[0, -1]) <= 1e-4
            assert trace.layers[-1].audio_tokens == left[row] < heard.tokens[row]


@pytest.mark.parametrize("name", SHOWN)
def test_beams(name: str) -> None:
    """Five beams; where a clip has several windows as rows of the input, transformers itself repeats them wrongly."""
    heard = HEARD[name]()
    model, (both, *alone) = family_model(name), prompts(heard)
    options: dict[str, Any] = {"max_new_tokens": 3, "num_beams": 5}
    with torch.no_grad(), strategy("vispruner").apply(model):
        if name != "voxtral":
            together = model.generate(**both, **options)[:, -3:]
            for row, one in enumerate(alone):
                assert torch.equal(together[row], model.generate(**one, **options)[0, -3:])
        else:
            one = alone[1]
            twice = {key: torch.cat([value, value]) for key, value in one.items()}
            together = model.generate(**twice, **options)
            assert torch.equal(together[0], model.generate(**one, **options)[0])
            assert torch.equal(together[1], together[0])


@pytest.mark.parametrize("name", ["qwen2_5_omni_thinker", "qwen3_asr"])
def test_packed_windows_of_flash_attention(name: str) -> None:
    """All windows in one call, with their bounds: as one call a window."""
    model, inputs = family_model(name), prompts(HEARD[name]())[0]
    expected = seen_by(model, inputs)
    tower, found = adapter_for(model).encoder_attention(model), list[EncoderCall]()
    query, key, value = torch.randn(3, 1, 2, 9, 4)
    watch(found, tower.config, {tower: lambda _, q, k, v, scale, mask: found.append(EncoderCall(q, k, scale, mask))})
    try:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        twin = ALL_ATTENTION_FUNCTIONS[tower.config._attn_implementation]
        twin(tower, query, key, value, None, scaling=0.5, cu_seq_lens_q=torch.tensor([0, 4, 9], dtype=torch.int32))
    finally:
        unwatch(found, tower.config)
    assert [call.query.shape[2] for call in found] == [4, 5]
    assert torch.equal(torch.cat([call.key for call in found], 2), key)
    assert torch.equal(seen_by(model, inputs).received, expected.received)


def test_windows_that_do_not_fit_are_refused() -> None:
    windows = [EncoderCall(torch.randn(1, 2, 8, 4), torch.randn(1, 2, 8, 4), 0.5, None) for _ in range(3)]
    seen = EncoderSeen.of_windows(windows, 2, [7, 4])
    assert seen.keys.shape == (2, 7, 4)
    assert not bool(seen.keys[1, 4:].any())
    for tokens in ([8, 8], [7], [3, 2, 4, 1]):
        with pytest.raises(ModelError, match="3 windows hold up to 12 audio tokens, which do not become"):
            EncoderSeen.of_windows(windows, 2, tokens)


@pytest.mark.parametrize("name", [name for name in installed() if name not in HEARD])
def test_refusals_say_why(name: str) -> None:
    assert name in FAMILIES
    why = adapter_for(family_model(name)).encoder_refusal
    with pytest.raises(ModelError) as refused:
        strategy("vispruner").apply(family_model(name)).__enter__()
    assert why
    assert f"({why})" in str(refused.value)
