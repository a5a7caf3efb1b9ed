"""Text from recordings: windows, formats, files at once, wrong input."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from command import run
from family_models import family_model, installed
from hypothesis import given
from hypothesis import strategies as st

import fastadasp
from fastadasp.audio import file_seconds
from fastadasp.demo import data_path
from fastadasp.errors import DataError, ModelError, RunError, StrategyError
from fastadasp.experiments.axes import find_task
from fastadasp.inference.clips import encode, prepare
from fastadasp.inference.load import LoadedModel
from fastadasp.inference.runner import run_cell
from fastadasp.samples import Samples
from fastadasp.transcribe import speech_model
from fastadasp.transcribe.windows import quietest, whole, windows

RATE = 16_000
COMMAND = Path(sys.executable).with_name("fastadasp")
CLIPS = find_task("asr-72").examples(4)


@pytest.fixture(scope="module")
def speech() -> fastadasp.SpeechModel:
    return fastadasp.load_speech_model()


def sound(path: Path) -> Any:
    wave, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE
    return wave


def command(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([COMMAND, "transcribe", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


# Windows


@given(st.integers(0, 10), st.floats(0.3, 2.0), st.floats(1.0, 4.0))
def test_windows_follow_each_other_and_fit(seed: int, longest: float, seconds: float) -> None:
    wave = np.random.default_rng(seed).normal(size=int(seconds * 1000)).astype(np.float32)
    parts = list(whole(wave, 1000, 1000, longest))
    assert np.array_equal(np.concatenate([part.wave for part in parts]), wave)
    assert parts[0].start == 0
    assert parts[-1].end == pytest.approx(len(wave) / 1000)
    assert all(a.end == b.start for a, b in itertools.pairwise(parts))
    assert all(0 < len(part.wave) <= longest * 1000 for part in parts)
    assert all(len(part.wave) >= longest * 500 - 20 for part in parts[:-1])


def test_the_cut_lies_in_the_silence() -> None:
    wave = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    wave[2500:2900] = 0
    assert quietest(wave, 1000, 1000, 4000) in range(2590, 2811)
    assert quietest(np.zeros(4000, dtype=np.float32), 1000, 1000, 4000) == 4000  # the longest window of equals


@pytest.mark.parametrize(("suffix", "rate", "channels"), [("wav", 8000, 2), ("flac", 44100, 2), ("ogg", 48000, 1)])
def test_files_are_read_as_needed_like_samples_in_memory(tmp_path: Path, suffix: str, rate: int, channels: int) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, size=(5 * rate, channels))
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, wave, rate)
    held, _ = soundfile.read(path, dtype="float32", always_2d=True)
    from_file, in_memory = list(windows(path, RATE, 2.0)), list(whole(held, rate, RATE, 2.0))
    assert len(from_file) == len(in_memory) >= 3
    for ours, theirs in zip(from_file, in_memory, strict=True):
        assert (ours.start, ours.end) == (theirs.start, theirs.end)
        np.testing.assert_allclose(ours.wave, theirs.wave, atol=1e-6)


# Text


def test_the_text_is_that_of_compare(speech: fastadasp.SpeechModel) -> None:
    task = find_task("asr")
    strategy = fastadasp.load_strategy("weighted", flops=0.4)
    ready = prepare(speech.loaded, CLIPS, 4, lambda done: None)
    clips = [ready[str(e.audio), e.instruction] for e in CLIPS]
    expected = run_cell(
        speech.loaded,
        strategy,
        clips,
        max_new_tokens=task.max_new_tokens,
        batch_size=4,
        progress=lambda done: None,
    )
    paths = [e.audio for e in CLIPS]
    ours = list(speech.transcribe_files(paths, strategy, prompt=CLIPS[0].instruction))
    assert [t.text for t in ours] == expected.predictions
    assert [t.audio for t in ours] == paths
    removed = 1 - sum(t.flops for t in ours) / sum(t.flops_full for t in ours)
    assert removed == pytest.approx(expected.efficiency.flops_removed)
    assert [speech.transcribe(p, "weighted", "flops=0.4", prompt=CLIPS[0].instruction).text for p in paths] == [
        t.text for t in ours
    ]


@pytest.mark.parametrize(("suffix", "rate", "channels"), [("wav", 8000, 2), ("flac", 44100, 1), ("mp3", 44100, 2)])
def test_formats_rates_and_channels(
    speech: fastadasp.SpeechModel, tmp_path: Path, suffix: str, rate: int, channels: int
) -> None:
    from fastadasp.audio import resample

    path, wave = tmp_path / f"clip.{suffix}", resample(sound(CLIPS[0].audio), RATE, rate)
    soundfile.write(path, np.stack([wave] * channels, 1), rate)
    assert speech.transcribe(path).text == CLIPS[0].reference


def test_a_window_has_its_own_limit_beside_longer_ones(
    speech: fastadasp.SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    real = speech_model.run_cell

    def seen(*given: Any, max_new_tokens: Any, **named: Any) -> Any:
        asked.append(list(max_new_tokens))
        return real(*given, max_new_tokens=[2, 4], **named)

    monkeypatch.setattr(speech_model, "run_cell", seen)
    long = np.tile(sound(CLIPS[0].audio), 30)[: 10 * RATE]
    both = [Samples(wave, RATE) for wave in (long[:RATE], long)]
    settings = speech._settings(None, None, "Transcribe the speech into text.", 12.0, None, 2)
    list(speech._answers(both, settings))
    assert asked == [[32, 120]]


def test_answers_end_at_the_limit_of_their_own_clip(speech: fastadasp.SpeechModel) -> None:
    loaded = speech.loaded
    ready = prepare(loaded, CLIPS[:2], 2, lambda done: None)
    clips = [ready[str(e.audio), e.instruction] for e in CLIPS[:2]]

    def answers(limit: Any, which: list[Any]) -> list[str]:
        return run_cell(loaded, None, which, max_new_tokens=limit, batch_size=2, progress=lambda done: None).predictions

    alone = [*answers(1, clips[:1]), *answers(9, clips[1:])]
    assert answers([1, 9], clips) == alone
    assert answers(9, clips)[0] != alone[0]


def test_a_long_recording_is_cut_at_silence_and_joined(speech: fastadasp.SpeechModel, tmp_path: Path) -> None:
    gap = np.zeros(RATE, dtype=np.float32)
    parts = [piece for clip in CLIPS for piece in (sound(clip.audio), gap)]
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate(parts), RATE)
    expected = " ".join(clip.reference for clip in CLIPS)
    longest = max(len(sound(clip.audio)) for clip in CLIPS) / RATE + 1
    answer = speech.transcribe(path, "weighted", 0.2, window=longest, batch_size=3)
    assert len(answer.segments) >= len(CLIPS)
    assert answer.text == expected
    assert answer.seconds == pytest.approx(sum(map(len, parts)) / RATE, abs=1e-3)
    assert answer.audio_tokens_left / answer.audio_tokens == pytest.approx(0.8, abs=0.01)


def test_a_question(speech: fastadasp.SpeechModel) -> None:
    example = find_task("er").examples(1)[0]
    assert speech.ask(example.audio, example.instruction, "weighted", 0.3) in ("angry", "happy", "neutral", "sad")
    with pytest.raises(DataError, match=r"which is more than this model hears at once; ask about a part"):
        speech.ask(np.zeros(40 * RATE, dtype=np.float32), example.instruction)


@pytest.mark.parametrize("seconds", [0.01, 0.3])
def test_short_and_silent_recordings_run(speech: fastadasp.SpeechModel, seconds: float) -> None:
    answer = speech.transcribe(np.zeros((int(seconds * 44100), 2), dtype=np.float32), "prune", 0.5, sampling_rate=44100)
    assert answer.seconds == pytest.approx(seconds, abs=1e-3)
    assert answer.audio_tokens > 0


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "shape": ({"audio": np.zeros((2, 2, 2))}, DataError, "no recording"),
    "empty": ({"audio": np.zeros(0)}, DataError, "no recording"),
    "finite": ({"audio": np.full(RATE, np.nan)}, DataError, "not finite"),
    "missing": ({"audio": "nowhere.wav"}, DataError, "there is no recording nowhere.wav"),
    "rate": ({"sampling_rate": 0}, RunError, "sampling rate 0: at least 1 Hz"),
    "window": ({"window": 40.0}, RunError, "window 40: 1 to 30 seconds for this model"),
    "batch": ({"batch_size": 0}, RunError, "batch size and new tokens are at least 1"),
    "strategy": ({"strategy": "wieghted"}, fastadasp.UnknownNameError, "Did you mean 'weighted'"),
    "budget alone": ({"budget": 0.5}, RunError, "needs a strategy to spend it"),
    "budget": ({"strategy": "weighted", "budget": 1.5}, StrategyError, "above 0 and below 1"),
    "reach": ({"strategy": "weighted", "budget": "flops=0.9"}, StrategyError, "the recording: .* cannot be met"),
    "together": (
        {"strategy": "weighted", "budget": "mean-flops=0.95"},
        StrategyError,
        "the recording: .* have together",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_input_is_explained(speech: fastadasp.SpeechModel, fault: str) -> None:
    changes, kind, message = WRONG[fault]
    with pytest.raises(kind, match=message):
        speech.transcribe(**{"audio": np.zeros(RATE, dtype=np.float32), **changes})


def test_a_budget_that_some_cannot_meet_together_is_theirs_alone(speech: fastadasp.SpeechModel, tmp_path: Path) -> None:
    for i, clip in enumerate(CLIPS[:2]):
        soundfile.write(tmp_path / f"clip{i}.wav", sound(clip.audio), RATE)
    files = [tmp_path / "clip0.wav", tmp_path / "clip1.wav", tmp_path / "nowhere.wav"]
    told = list(speech.transcribe_files(files, "weighted", "mean-flops=0.95"))
    assert [type(fault) for fault in told] == [StrategyError, StrategyError, DataError]
    assert [file.name in str(fault) for file, fault in zip(files, told, strict=True)] == [True] * 3


# The command


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "broken.flac").write_bytes(b"no flac")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    for i, clip in enumerate(CLIPS[:2]):
        soundfile.write(tmp_path / f"clip{i}.wav", sound(clip.audio), RATE)
    code, out, err = command(str(tmp_path), "--strategy", "weighted", "--budget", "0.3", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["text"] for line in lines] == [clip.reference for clip in CLIPS[:2]]
    assert code == 1
    assert "Traceback" not in err
    assert "error: " + str(tmp_path / "broken.flac") + " cannot be read as audio" in err
    assert "error: " + str(tmp_path / "empty.wav") + " is empty: it holds no samples" in err
    assert "weighted: 30% of the audio tokens, " in err
    code, out, err = command(str(tmp_path / "clip0.wav"), "--quiet")
    assert (code, out, err) == (0, CLIPS[0].reference + "\n", "")


FAULTS: dict[str, tuple[tuple[str, ...], str]] = {
    "missing": (("nowhere.wav",), "there is no recording nowhere.wav"),
    "empty folder": (("FOLDER",), "holds no recording (.wav, "),
    "strategy": (("CLIP", "--strategy", "wieghted"), "Did you mean 'weighted'"),
    "budget": (("CLIP", "--strategy", "weighted", "--budget", "2"), "above 0 and below 1, not '2'"),
    "budget alone": (("CLIP", "--budget", "0.5"), "name one with --strategy"),
    "calibrated": (("CLIP", "--strategy", "fastadasp-sparse"), "--set layers.layer=N"),
    "model": (("CLIP", "--model", "./nowhere"), "there is no model folder ./nowhere"),
    "device": (("CLIP", "--device", "tpu"), "device is one of auto, cpu, cuda, not 'tpu'"),
    "window": (("CLIP", "--window", "0.5"), "window 0.5: 1 to 30 seconds for this model"),
    "batch": (("CLIP", "--batch-size", "0"), "batch size and new tokens are at least 1"),
    "field": (("CLIP", "--strategy", "weighted", "--set", "shedule.name=decay"), "schedule"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_commands_are_explained(tmp_path: Path, fault: str) -> None:
    arguments, message = FAULTS[fault]
    named = {"CLIP": str(CLIPS[0].audio), "FOLDER": str(tmp_path)}
    code, told = run("transcribe", *(named.get(a, a) for a in arguments))
    assert code == 2
    assert message in told
    assert len(told.strip().splitlines()) == 1


@pytest.mark.parametrize("family", [name for name in ("vibevoice_asr", "gemma4_unified") if name in installed()])
def test_a_model_that_cannot_generate_from_embeddings_is_refused(family: str) -> None:
    loaded = LoadedModel(family_model(family), None, "tiny", "cpu", "float32")
    with pytest.raises(ModelError, match="cannot generate from embeddings, which the commands of fastadasp need"):
        encode(loaded, CLIPS[:1], [sound(CLIPS[0].audio)])


def test_names_that_are_not_utf8_and_pipes(tmp_path: Path) -> None:
    """One cannot be shown as it is, the other would wait for ever; the recordings beside them are answered."""
    source = next(data_path().glob("audio/number-*.ogg"))
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff.ogg"))
    shutil.copy(source, odd)
    shutil.copy(source, tmp_path / "plain.ogg")
    os.mkfifo(tmp_path / "pipe.wav")
    assert file_seconds(odd) > 0 == file_seconds(tmp_path / "pipe.wav")
    code, told = run("transcribe", str(odd), str(tmp_path / "pipe.wav"), str(tmp_path / "plain.ogg"))
    assert code == 1  # two of three
    assert told.count("error: ") == 1
    assert "there is no recording" in told
    assert "pipe.wav" in told
    code, told = run("inspect", str(odd), "--output", str(tmp_path / "page.html"), "--max-new-tokens", "2")
    assert (code, "Traceback" in told) == (0, False)
    assert "odd?.ogg" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not list(tmp_path.glob("*.part"))
