"""Questions with options, groups, prompts by family, and what normalisers do for other scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
from command import run

from fastadasp import DataError, ManifestTask, testing
from fastadasp.demo import data_path
from fastadasp.experiments.axes import asked, find_task
from fastadasp.tasks.groups import group_scores
from fastadasp.tasks.metrics import METRICS
from fastadasp.tasks.normalisers import NORMALISERS
from fastadasp.tasks.options import find, read_reference, reference_of, settle

OPTIONS = ["a cat", "a dog", "a hot dog", "birds"]
ANSWERS = {
    "B": (
        *("B", "(B)", "B.", "B)", "b", "(b)", " B \n", "**B**", "[B]", '"B"', "\uff08B\uff09", "B. a dog", "B: a dog"),
        *("The answer is B", "The answer is B.", "the correct answer is (B).", "Answer: B", "answer: b", "ANSWER: B"),
        *(
            "The correct option is: B",
            "Option B",
            "\u7b54\u6848\u662fB\u3002",
            "\u9009B",
            "I think it's B",
            "B\nFor it barks",
        ),
        *("a dog", "A dog", "It is a dog.", "A dog barks", "The answer is a dog", "(B) a hot dog", "A DOG!"),
    ),
    "A": ("A", "A.", "I think A", "A cat, because it meows", "A cat is heard, so the answer is (A)", "The answer is A"),
    "C": ("It is a hot dog", "The answer is a hot dog.", "C"),
    "D": ("The sound is birds singing", "D. "),
    "": (
        *(
            "",
            "E",
            "(E)",
            "none of them",
            "a cat or a dog",
            "B and C",
            "The answer is not A",
            "(A) or (B)",
            "A, B",
            "?",
        ),
        *("dog", "The answer is A. No, the answer is B."),
    ),
}


@pytest.mark.parametrize(("letter", "answer"), [(k, text) for k, texts in ANSWERS.items() for text in texts])
def test_which_option_an_answer_names(letter: str, answer: str) -> None:
    place = find(answer, OPTIONS)
    assert ("" if place is None else "ABCD"[place]) == letter


@pytest.mark.parametrize(
    ("answer", "label"),
    [("Happy.", "happy"), ("The speaker is very sad", "sad"), ("happy or sad", None), ("A", None), ("unhappy", None)],
)
def test_labels_have_no_letters(answer: str, label: str | None) -> None:
    labels = ["happy", "sad", "neutral"]
    place = find(answer, labels, lettered=False)
    assert (None if place is None else labels[place]) == label


def test_references_hold_their_options() -> None:
    for answer in ("B", "a dog", "(B) a dog"):
        reference = reference_of(answer, OPTIONS, "row 1")
        assert read_reference(reference) == ("B", OPTIONS)
    with pytest.raises(DataError, match="row 1: the answer 'a cow' names none of the options 'a cat'"):
        reference_of("a cow", OPTIONS, "row 1")
    for damaged in ("B", "E\nA. a\nB. b", "happy", "B\nA. a\nb"):
        with pytest.raises(DataError, match="no reference with lettered options"):
            read_reference(damaged)
    guesses, truths, unclear = settle(["(B)", "cow"], [reference, reference])
    assert (guesses, truths, unclear) == (["B", ""], ["B", "B"], 1)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Four questions with options, over two recordings."""
    sounds = sorted(data_path().glob("audio/number-*.ogg"))[:2]
    rows = []
    for number, (domain, answer) in enumerate(
        [("music", "a cat"), ("music", "B"), ("speech", "dogs"), ("speech", "a cat")]
    ):
        choices = ["a cat", "dogs", ""] if number % 2 else ["dogs", "a cat", "(C) a cow"]
        row: dict[str, Any] = {"audio": str(sounds[number % 2]), "question": f"Who is it, {number}?", "answer": answer}
        row |= {"choices": json.dumps(choices), "domain": domain, "note": "n"}
        rows.append(row | dict(zip(("choice_a", "choice_b", "choice_c"), choices, strict=True)))
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "q.jsonl"


def lettered(path: Path, **more: Any) -> ManifestTask:
    fixed: dict[str, Any] = {"kind": "sparse", "metric": "accuracy", "instruction": "{question}\n{options}\nAnswer:"}
    return ManifestTask("quiz", path, **{**fixed, "options": ["choices"], **more})


@pytest.mark.parametrize("options", [["choices"], ["choice_a", "choice_b", "choice_c"]])
def test_options_from_columns(options: list[str], questions: Path) -> None:
    task = lettered(questions, options=options, groups=["domain"])
    examples = task.examples()
    assert examples[0].instruction == "Who is it, 0?\nA. dogs\nB. a cat\nC. a cow\nAnswer:"
    assert examples[1].instruction == "Who is it, 1?\nA. a cat\nB. dogs\nAnswer:"  # an empty option is none
    assert [example.reference[0] for example in examples] == ["B", "B", "A", "A"]
    answers = ["The answer is B", "(A)", "no idea", "a cat"]
    references = [example.reference for example in examples]
    scores = task.score(answers, references)
    assert (scores["accuracy"], scores["no_answer"]) == (50, 25)
    tally = task.tally(answers, references)
    assert tally is not None
    assert tally.total(tally.counts.sum(0)) == 50
    assert group_scores(task, examples, answers) == {
        "accuracy[domain]": 50,
        "accuracy[domain=music]": 50,
        "accuracy[domain=speech]": 50,
    }
    assert group_scores(task, examples[:3], answers[:3])["accuracy[domain]"] == 25  # a macro mean: 50 and 0
    testing.check_task(task)


def test_columns_that_are_kept(questions: Path) -> None:
    assert set(lettered(questions).examples()[0].tags) >= {"note", "domain"}
    assert lettered(questions, keep=["domain"]).examples()[0].tags == {"domain": "music"}
    with pytest.raises(DataError, match="no column 'nothing'"):
        lettered(questions, keep=["nothing"]).examples()
    with pytest.raises(DataError, match="no column 'dmain'"):
        lettered(questions, groups=["dmain"]).examples()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"metric": "wer"}, "belong to the metrics accuracy and f1, not wer"),
        ({"labels": ["a", "b"]}, "a task has one of the two"),
        ({"keep": ["note"], "groups": ["domain"]}, "leaves out 'domain'"),
    ],
)
def test_settings_that_make_no_sense(more: dict[str, Any], said: str, questions: Path) -> None:
    with pytest.raises(DataError, match=said):
        lettered(questions, **more)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["chices"], "has no options in chices"),
        (["question"], "'question' is no list"),
        (["choice_c", "x"], "options; a"),
    ],
)
def test_options_that_are_not_there(options: list[str], said: str, questions: Path) -> None:
    with pytest.raises(DataError, match=said):
        lettered(questions, options=options).examples()


def test_labels_of_a_task(questions: Path) -> None:
    task = lettered(questions, options=(), labels=["a cat", "dogs", "B"], instruction="One of: {labels}")
    examples = task.examples()
    assert examples[0].instruction == "One of: a cat, dogs, B"
    scores = task.score(["It is a cat", "b", "a cow", "dogs"], [example.reference for example in examples])
    assert (scores["accuracy"], scores["no_answer"]) == (50, 25)
    testing.check_task(task)
    with pytest.raises(DataError, match="'dogs' is none of a cat, B"):
        lettered(questions, options=(), labels=["a cat", "B"]).examples()


def test_groups_and_rates_and_prompts_in_the_files_of_a_run(questions: Path, tmp_path: Path) -> None:
    (tmp_path / "quiz.toml").write_text(
        'data = "q.jsonl"\nkind = "sparse"\nmetric = "accuracy"\ninstruction = "{question} {options}"\n'
        'options = ["choices"]\ngroups = ["domain"]\nmax_new_tokens = 4\n[prompts]\nqwen2_audio = "Own: {options}"\n'
    )
    for extra, said in (((), "A. dogs"), (("--prompt", "Say one: {question}"), "Say one: Who is it, 0?")):
        out = tmp_path / f"out{len(extra)}"
        options = ("--strategies", "prune", "--budgets", "0.5", "--output", str(out), *extra)
        assert run("compare", "--tasks", str(tmp_path / "quiz.toml"), *options)[0] == 0
        about = json.loads((out / "run.json").read_text())
        assert said in about["prompts"]["quiz"]
        assert about["prompts"]["quiz"].count("<|audio|>") <= 1
        cell = json.loads((out / "results.jsonl").read_text().splitlines()[0])
        assert set(cell["metrics"]) >= {"accuracy", "no_answer", "accuracy[domain]", "accuracy[domain=music]"}
        table = (out / "table.md").read_text()
        assert "| strategy | budget | no option named | mean by domain | domain=music | domain=speech |" in table
        answers = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        assert answers[0]["reference"].startswith("B\nA. dogs\n")


def test_prompts_by_family(tmp_path: Path, questions: Path) -> None:
    task = lettered(questions, prompts={"qwen2_audio": "Base: {question}"})
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_audio"}')
    assert asked(task, str(tmp_path), None).examples()[0].instruction == "Base: Who is it, 0?"  # type: ignore[attr-defined]
    assert asked(task, None, None).examples()[0].instruction.startswith("Who is it, 0?\nA.")
    assert asked(task, str(tmp_path), "Hm?").examples()[0].instruction == "Hm?"
    (tmp_path / "config.json").write_text('{"model_type": "voxtral"}')
    assert asked(task, str(tmp_path), None).examples()[0].instruction.startswith("Who is it, 0?\nA.")


def test_a_column_by_several_names(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", [0.1] * 1600, 16000)
    (tmp_path / "t.toml").write_text(
        'kind = "dense"\nmetric = "wer"\ninstruction = "x"\ncolumns = { reference = ["gt", "text"] }\n'
    )
    for name in ("gt", "text"):
        (tmp_path / "c.jsonl").write_text(json.dumps({"audio": "a.wav", name: "one"}))
        assert find_task(f"{tmp_path / 't.toml'}={tmp_path / 'c.jsonl'}").examples()[0].reference == "one"


def test_british_and_american_spellings_are_one() -> None:
    whisper = NORMALISERS["whisper-en"]
    assert whisper("The colour of his aluminium armour") == whisper("the color of his aluminum armor")
    assert METRICS["wer"].score(["my favorite color"], ["My favourite colour!"], whisper)["wer"] == 0


def test_chinese_and_japanese_are_scored_by_characters() -> None:
    cjk = NORMALISERS["cjk"]
    assert cjk("\u4f60 \u597d\uff0c\u4e16\u754c\uff01") == "\u4f60\u597d\u4e16\u754c"
    assert cjk("\u6211 \u7528 Hugging  Face \uff12\u5929") == "\u6211\u7528hugging face 2\u5929"
    assert (
        cjk("\u30b3\u30fc\u30d2\u30fc \u3092\u3001\u98f2\u3080\u3002") == "\u30b3\u30fc\u30d2\u30fc\u3092\u98f2\u3080"
    )
    assert METRICS["cer"].score(["\u4f60\u597d \u4e16\u754c"], ["\u4f60\u597d\uff0c\u5e02\u754c\u3002"], cjk)[
        "cer"
    ] == pytest.approx(25)


def test_whispers_normaliser_for_all_languages() -> None:
    assert (
        NORMALISERS["whisper-multilingual"]("\u00bfQu\u00e9 (ruido) tal, [m\u00fasica] \u00c1ngel?")
        == "qu\u00e9 tal \u00e1ngel"
    )
