"""Models that know a few tasks only say so where they are asked something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import run

from fastadasp import Example, ModelError, get_registry
from fastadasp.demo import data_path, model_path
from fastadasp.demo.prompts import knows
from fastadasp.inference.knows import Knowledge, knowledge_of

SOUND = data_path() / "audio" / "number-028.ogg"
OWN = knowledge_of(model_path())


def asked(question: str, reference: str) -> Example:
    return Example("a", SOUND, question, reference)


def test_the_embedded_model_says_what_it_was_trained_for() -> None:
    assert json.loads((model_path() / "knows.json").read_text(encoding="utf-8")) == knows()
    assert sorted(OWN.tasks) == ["asr", "er", "gender", "sqa", "st"]


@pytest.mark.parametrize("name", ["asr", "st", "er", "sqa", "gender"])
def test_its_own_tasks_are_known_to_the_last_clip(name: str) -> None:
    assert OWN.notes(name, get_registry().get("task", name).examples()) == []


def test_another_question() -> None:
    notes = OWN.notes("mine", [asked("Which language is spoken?", "english"), asked("Transcribe the numbers.", "five")])
    assert len(notes) == 1
    assert "task 'mine': 'Which language is spoken?' is none of the questions" in notes[0]
    assert "knows 5 tasks only" in notes[0]
    assert OWN.unknown(["transcribe  the NUMBERS"]) is None


def test_other_labels_and_other_words() -> None:
    question = "Which emotion is in the voice?"
    notes = OWN.notes("er", [asked(question, "Angry."), asked(question, "afraid")])
    assert notes == [
        "task 'er': 1 of 2 references hold words that this model never says, such as 'afraid': asked "
        f"{question!r}, it says nothing but angry, happy, neutral, sad. --model names another model"
    ]
    assert OWN.beyond([asked("Transcribe the numbers.", "good morning")]) is not None
    assert OWN.beyond([asked("Which size is ordered?", "anything at all")]) is None


def test_a_model_that_says_nothing_may_be_asked_anything(tmp_path: Path) -> None:
    for silent in (knowledge_of(tmp_path), knowledge_of("some/hub-id"), Knowledge()):
        assert silent.notes("mine", [asked("What?", "that")]) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"tasks": {}}', '{"tasks": {"a": {"about": "b", "instructions": []}}}', "\udc80"]
)
def test_a_file_that_cannot_be_used(text: str, tmp_path: Path) -> None:
    (tmp_path / "knows.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"knows\.json"):
        knowledge_of(tmp_path)


def test_the_commands_say_it(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(f"audio,reference,question\n{SOUND},english,Which language is spoken?\n")
    given = ["--tasks", f"sqa={tmp_path / 'mine.csv'}", "--strategies", "weighted", "--budgets", "0.5"]
    code, told = run("compare", *given, "--output", str(tmp_path / "run"))
    assert code == 0
    assert "is none of the questions that this model was trained for" in told
    assert "is none of the questions" in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
    assert (
        "'Summarise the talk.' is none of the questions"
        in run("transcribe", str(SOUND), "--prompt", "Summarise the talk.")[1]
    )
    assert "none of the questions" not in run("transcribe", str(SOUND))[1]
