"""Tasks, metrics and reading of recordings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fastadasp import DataError, ManifestTask, get_registry
from fastadasp.audio import read_audio
from fastadasp.tasks.metrics import accuracy, bleu, word_error_rate


def write_manifest(folder: Path, *rows: dict[str, object] | str) -> Path:
    path = folder / "clips.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def task(path: Path, **more: object) -> ManifestTask:
    return ManifestTask("mine", path, kind="dense", metric="wer", instruction="Transcribe.", **more)  # type: ignore[arg-type]


def test_word_error_rate_counts_words_of_all_clips() -> None:
    scores = word_error_rate(["one two", "x y z w"], ["one two", "One."])
    assert scores["wer"] == pytest.approx(100 * 4 / 3)
    assert scores["clamped_wer"] == pytest.approx(100 / 3)


def test_bleu_and_accuracy() -> None:
    assert bleu(["drei fünf neun null eins"], ["drei fünf neun null eins"])["bleu"] == pytest.approx(100)
    assert accuracy([" Angry.", "sad"], ["angry", "happy"])["accuracy"] == 50


def test_manifest_task_reads_rows_and_tags(tmp_path: Path) -> None:
    path = write_manifest(
        tmp_path,
        {"audio_filepath": "a.flac", "text": "one", "task": "mine", "speaker": "x"},
        {"audio_filepath": "b.flac", "reference": "two", "task": "other"},
        {"audio_filepath": "c.flac", "reference": "three", "task": "mine", "question": "Which?", "id": "c"},
    )
    first, second = task(path, where={"task": "mine"}).examples()
    assert first.audio == tmp_path / "a.flac"
    assert (first.reference, first.instruction, first.tags["speaker"]) == ("one", "Transcribe.", "x")
    assert (second.id, second.instruction) == ("c", "Which?")
    assert len(task(path).examples(limit=2)) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "line 1: not valid JSON"),
        ("[1]", "expected a JSON object"),
        ({"audio_filepath": "a.flac"}, "'reference' is missing"),
        ({"reference": "x"}, "'audio_filepath' is missing"),
    ],
)
def test_bad_manifests_say_which_line(tmp_path: Path, row: dict[str, object] | str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task(write_manifest(tmp_path, row)).examples()


def test_missing_and_empty_manifests(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no manifest"):
        task(tmp_path / "none.jsonl").examples()
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no clips"):
        task(tmp_path / "empty.jsonl").examples()


def test_audio_is_folded_and_resampled(tmp_path: Path) -> None:
    wave = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", np.stack([wave, wave], 1), 8000)
    read = read_audio(tmp_path / "x.wav")
    assert read.shape == (16000,)
    peak = np.argmax(np.abs(np.fft.rfft(read)))
    assert peak == 440


def test_unusable_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no recording"):
        read_audio(tmp_path / "none.wav")
    (tmp_path / "broken.flac").write_bytes(b"fLaC not really")
    with pytest.raises(DataError, match="cannot be read as audio"):
        read_audio(tmp_path / "broken.flac")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16000)
    with pytest.raises(DataError, match="empty"):
        read_audio(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "long.wav", np.zeros(16000 * 3, np.float32), 16000)
    with pytest.raises(DataError, match=r"lasts 3\.0 s; this model hears at most 2 s"):
        read_audio(tmp_path / "long.wav", longest=2)


def test_built_in_tasks_have_clips_that_exist() -> None:
    for name, least in {"asr-72": 72, "st-72": 72, "er": 60, "sqa": 200, "gender": 48}.items():
        examples = get_registry().get("task", name).examples()
        assert len(examples) >= least
        assert all(example.audio.is_file() for example in examples)
        assert len({example.id for example in examples}) == len(examples)
