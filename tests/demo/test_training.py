"""What the embedded model is trained on: sounds as they are meant, groups in equal shares, lengths that grow."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

from fastadasp.demo import model_path
from fastadasp.errors import DataError
from tools.demo import audio, average, corpus, learning
from tools.demo.architecture import load_model, save_model
from tools.demo.corpus import Clip
from tools.demo.features import FeatureMaker
from tools.demo.learning import SHARES, Sampler
from tools.demo.splits import Recording

SMALL = {
    "audio_config": {"d_model": 8, "encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": 8},
    "text_config": {"model_type": "qwen2", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 8}
    | {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1},
}
TONE = (0.5 * np.sin(2 * np.pi * 200 * np.arange(2 * audio.RATE) / audio.RATE)).astype(np.float32)


@pytest.mark.parametrize("speed", [0.8, 1.2, 1.5])
def test_stretching_keeps_the_pitch(speed: float) -> None:
    sound = audio.stretch(TONE, speed)
    assert len(sound) == pytest.approx(len(TONE) / speed, abs=2)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    assert np.fft.rfftfreq(len(sound), 1 / audio.RATE)[spectrum.argmax()] == pytest.approx(200, abs=1)


def test_a_room_rings_on() -> None:
    click = np.zeros(audio.RATE, np.float32)
    click[100] = 1
    sound = audio.room(click, np.random.default_rng(0))
    assert len(sound) == len(click)
    assert sound[100] == pytest.approx(1, abs=0.01)
    rest = sound[101:]
    decibels = 10 * np.log10(float((rest**2).sum()))
    assert -21 < decibels < -4
    assert np.abs(rest[:1600]).mean() > 10 * np.abs(rest[-1600:]).mean()


def test_augmented_sounds_are_noisy_and_of_all_levels() -> None:
    """Between two steps of a loud tone there is silence: what is heard there is the noise that was added."""
    rng = np.random.default_rng(0)
    wave = np.concatenate([TONE, np.zeros(audio.RATE, np.float32)])
    made = [audio.augment(wave, rng) for _ in range(80)]
    assert all(len(one) == len(wave) and np.isfinite(one).all() and np.abs(one).max() <= 1 for one in made)
    quiet = [float(np.sqrt(np.mean(one[-8000:] ** 2)) / np.sqrt(np.mean(one[:8000] ** 2))) for one in made]
    assert sum(q > 0.1 for q in quiet) > 20  # 20 dB and worse
    assert sum(q < 0.1 for q in quiet) > 20
    assert max(np.abs(one).max() for one in made) > 0.85
    assert min(np.abs(one).max() for one in made) < 0.2


def test_where_nothing_is_ordered_every_slot_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "read", lambda path, speed=1.0: TONE)
    other = [Recording("digits", Path("x.flac"), "theo", False, True, {"digit": 1})]
    made = list(corpus._absent(other, corpus.Sizes(absent=6), np.random.default_rng(0)))
    assert len(made) == 6
    assert {answer for _, asked, _ in made for task, _, answer in asked if task == "sqa"} == {"none"}
    assert sum(not wave.any() for wave, _, _ in made) == 2
    unspoken = [[answer for task, _, answer in asked if task != "sqa"] for _, asked, _ in made]
    assert unspoken == [["", ""], ["", ""], []] * 2  # silence, noise, speech of another kind


def test_longer_numbers_than_tests_have_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "read", lambda path, speed=1.0: TONE[:4000])
    spoken = [Recording("digits", Path("x.flac"), "theo", False, True, {"digit": digit}) for digit in range(10)]
    sizes = corpus.Sizes(0, 0, 0, synthetic_orders=0, lengths=0, absent=0, longer=40)
    made = list(corpus.sounds(spoken, sizes, 0))
    words = [len(answer.split()) for _, asked, _ in made for _, _, answer in asked]
    assert {group for _, _, group in made} == {"longer numbers"}
    assert max(words) <= 30
    assert np.mean(np.array(words) > 20) > 0.8  # the others are those of which 30 s held fewer


def sampler(groups: dict[str, int], lengths: tuple[int, ...] = (10,)) -> Sampler:
    question = ("gender", ("Who?",), "female")
    clips = [
        Clip(torch.zeros(lengths[i % len(lengths)], 4), [question], name)
        for name, count in groups.items()
        for i in range(count)
    ]
    clips += [Clip(torch.zeros(lengths[0], 4), [(task, ("?",), "a")]) for task in SHARES if task != "gender"]
    tokenizer = lambda text: SimpleNamespace(input_ids=[0] * len(text))  # noqa: E731
    return Sampler(clips, tokenizer, 4000, np.random.default_rng(0))


def test_groups_of_a_task_are_drawn_equally_often() -> None:
    made = sampler({"voice F": 5, "voice M": 50})
    drawn: Counter[bool] = Counter()
    few = {id(clip.features) for clip in made.clips if clip.group == "voice F"}
    for _ in range(3000):
        features, pairs = made._draw()
        if len(pairs[0][0]) == len("<|audio_eos|>Who?<|answer|>"):
            drawn[id(features) in few] += 1
    assert drawn[True] == pytest.approx(drawn[False], rel=0.25)


def test_long_clips_wait() -> None:
    made = sampler({"voice F": 20, "voice M": 20}, lengths=(10, 700))
    assert made.longest == 700
    made.longest = 150
    assert {len(made._draw()[0]) for _ in range(300)} == {10}
    made.longest = 750
    assert {len(made._draw()[0]) for _ in range(300)} == {10, 700}


def test_training_begins_with_short_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sampler({"voice F": 20, "voice M": 20}, lengths=(10, 700))
    seen: list[int] = []

    def loss_of(model: Any, batch: list[Any], *_: Any) -> torch.Tensor:
        seen.extend(len(features) for features, _ in batch)
        return torch.stack([weight.sum() for weight in model.parameters()]).sum()

    monkeypatch.setattr(learning, "loss_of", loss_of)
    model: Any = torch.nn.Linear(2, 2)
    model.device, model.model = torch.device("cpu"), SimpleNamespace(audio_tower=torch.nn.Identity())
    saved: list[int] = []
    learning.train(
        model,
        lambda text: SimpleNamespace(input_ids=[0] * len(text)),
        made.clips,
        learning.Plan(steps=2),
        tmp_path / "log.jsonl",
        lambda state: saved.append(state["step"]),
        lambda done, note: None,
    )
    assert saved == [2]
    assert set(seen) == {10}


def test_a_wrong_model_to_go_on_from(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.demo.train", "--data", str(tmp_path), "--init", str(tmp_path / "none")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 2
    assert "--init" in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_are_averaged(demo_model: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = demo_model
    state = model.state_dict()
    save_model(tmp_path / "other", model, processor, {name: value + 0.5 for name, value in state.items()})
    average.main([model_path(), tmp_path / "other"], tmp_path / "mean")
    made = load_model(tmp_path / "mean")[0].state_dict()
    for name, value in state.items():
        torch.testing.assert_close(made[name], value + 0.25, rtol=1e-3, atol=1e-3)
    assert {path.name for path in (tmp_path / "mean").iterdir()} == {path.name for path in model_path().iterdir()}
    with pytest.raises(DataError, match="two model folders or more, not 1"):
        average.main([model_path()], tmp_path / "mean")
    with pytest.raises(DataError, match="is no model folder"):
        average.main([model_path(), tmp_path], tmp_path / "mean")
    small = Qwen2AudioForConditionalGeneration(Qwen2AudioConfig(**SMALL))
    small.save_pretrained(tmp_path / "small")
    processor.save_pretrained(tmp_path / "small")
    with pytest.raises(DataError, match="other weights than"):
        average.main([model_path(), tmp_path / "small"], tmp_path / "mean")


def test_features_that_are_made_are_not_made_again(
    demo_model: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = demo_model
    maker = FeatureMaker(model.model.audio_tower, processor.feature_extractor)
    question = [("gender", ("Who?",), "female")]
    monkeypatch.setattr(corpus, "sounds", lambda *_: ((TONE[: 8000 + 320 * i], question, str(i)) for i in range(3)))

    def build(keep: Path) -> list[Clip]:
        return corpus.build([], maker, corpus.Sizes(), 0, 1, lambda _: None, keep)

    made = build(tmp_path)
    assert [len(clip.features) for clip in made] == [maker.tokens(TONE[: 8000 + 320 * i]) for i in range(3)]
    (tmp_path / "other").mkdir()
    whole = build(tmp_path / "other")
    monkeypatch.setattr(maker, "many", None)
    for again, clip, first in zip(build(tmp_path), made, whole, strict=True):
        torch.testing.assert_close(again.features, clip.features, rtol=0, atol=0)
        torch.testing.assert_close(first.features, clip.features, rtol=0, atol=0)
        assert (again.questions, again.group) == (clip.questions, clip.group)
    monkeypatch.setattr(corpus, "sounds", lambda *_: ((TONE[: 9000 + 640 * i], question, str(i)) for i in range(3)))
    with pytest.raises(DataError, match="features of other sounds"):
        build(tmp_path)
