"""Nothing that is tested on was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastadasp.demo import data_path
from fastadasp.errors import DataError
from tools.demo import corpus, splits, testset
from tools.demo.audio import DIGITS, GERMAN


def test_splits_are_the_same_every_time(data_folder: Path) -> None:
    assert splits.load_recordings(data_folder) == splits.load_recordings(data_folder)


def test_held_out_speakers_are_never_trained_on(data_folder: Path) -> None:
    recordings = splits.load_recordings(data_folder)
    assert {r.folder for r in recordings} == set(splits.FOLDERS)
    for folder in ("digits", "emotion", "voices"):
        trained = {r.speaker for r in recordings if r.folder == folder and not r.test}
        unseen = {r.speaker for r in recordings if r.folder == folder and r.test and not r.seen}
        assert trained
        assert unseen
        assert not trained & unseen
    assert not [r for r in recordings if r.labels.get("split") == "test" and not r.test]


def test_training_and_test_set_share_no_recording(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: dict[str, set[Path]] = {"train": set(), "test": set()}

    def reader(name: str) -> object:
        def read(path: Path, speed: float = 1.0) -> np.ndarray:
            used[name].add(path)
            return np.full(1600, 0.1, np.float32)

        return read

    monkeypatch.setattr(corpus, "read", reader("train"))
    monkeypatch.setattr(testset, "read", reader("test"))
    recordings = splits.load_recordings(data_folder)
    sizes = corpus.Sizes(
        40, 4, 0, emotion_copies=2, order_copies=1, synthetic_orders=0, voice_copies=1, lengths=4, absent=6, longer=4
    )
    trained = list(corpus.sounds(recordings, sizes, seed=0))
    tested = testset.make(recordings, tmp_path / "out")
    assert len(trained) > 100
    assert {line["task"] for line in tested} == {"asr", "st", "er", "sqa", "gender"}
    assert used["train"]
    assert used["test"]
    assert not used["train"] & used["test"]


def test_packaged_clips_of_unseen_speakers_are_of_held_out_speakers() -> None:
    lines = [json.loads(line) for line in (data_path() / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    held_out = {"digits": splits.HELD_OUT_DIGIT_SPEAKERS, "emotion": splits.HELD_OUT_EMOTION_SPEAKERS}
    for line in lines:
        if line["source"] in held_out:
            assert line["seen_speaker"] == (line["speaker"] not in held_out[line["source"]])


def test_german_numbers() -> None:
    (_, _, english), (_, _, german) = corpus.number_questions(list(range(10)))
    assert english == " ".join(DIGITS) == "zero one two three four five six seven eight nine"
    assert german == " ".join(GERMAN) == "null eins zwei drei vier fünf sechs sieben acht neun"


def test_slots_that_were_not_ordered_are_answered_none() -> None:
    answers = {asked[0]: answer for _, asked, answer in corpus.order_questions({"size": "small"})}
    assert len(answers) == 6
    assert answers["Which size is ordered?"] == "small"
    assert list(answers.values()).count("none") == 5


@pytest.mark.parametrize("folder", splits.FOLDERS)
def test_a_missing_folder_is_named(data_folder: Path, folder: str) -> None:
    (data_folder / folder / "manifest.jsonl").unlink()
    with pytest.raises(DataError, match=f"{folder}/manifest.jsonl"):
        splits.load_recordings(data_folder)
