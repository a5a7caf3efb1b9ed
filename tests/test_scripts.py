"""Texts in all scripts are scored for what they say; scores, intervals and tests count the same errors."""

# ruff: noqa: RUF001

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from fastadasp.errors import DataError
from fastadasp.experiments.statistics import draw, interval
from fastadasp.tasks.manifest import ManifestTask
from fastadasp.tasks.metrics import METRICS, accuracy, bleu, word_error_rate
from fastadasp.tasks.normalisers import NORMALISERS, basic, whisper_english
from fastadasp.tasks.tokenizers import tokenizer_for


def test_a_wrong_vowel_sign_is_an_error() -> None:
    said, heard = "हिन्दी में बात करते हैं", "हिन्दी मे बात करते हैं"
    assert word_error_rate([heard], [said])["wer"] == 20
    assert accuracy(["कला"], ["कल"])["accuracy"] == 0


@pytest.mark.parametrize(
    "word", ["สวัสดีครับ", "வணக்கம்", "മലയാളം", "العَرَبِيَّة", "שָׁלוֹם", "നന്\u200dമ", "می\u200cخواهم", "İstanbul"]
)
def test_a_word_stays_one(word: str) -> None:
    assert len(basic(f"«{word}»!").split()) == 1
    assert basic(word) == basic(unicodedata.normalize("NFD", word))


def test_punctuation_of_every_script_goes() -> None:
    assert basic("¿Qué?　今天，很好。 नमस्ते। ❤️") == "qué 今天 很好 नमस्ते"


@pytest.mark.parametrize("name", NORMALISERS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_composed_and_decomposed_are_one_text(name: str, form: str) -> None:
    text = "café crème, ひがしがわ, 각"
    assert NORMALISERS[name](unicodedata.normalize(form, text)) == NORMALISERS[name](text)


@pytest.mark.parametrize("sign", ["’", "ʼ", "＇", "`"])
def test_an_apostrophe_is_one(sign: str) -> None:
    assert basic(f"I don{sign}t") == "i don't"
    assert whisper_english(f"I don{sign}t") == whisper_english("I don't") == "i do not"


def test_words_over_empty_references_count_everywhere() -> None:
    task = ManifestTask("mine", None, kind="dense", metric="wer", instruction="x", normaliser="whisper-en")
    truths = ["Hmm.", "the cat sat on the mat", "a dog ran away", "(laughs)"]
    answers = ["thank you for watching", "the cat sat on the mat", "a dog ran away", "you"]
    score = task.score(answers, truths)
    assert score["wer"] == 50
    assert score["clamped_wer"] == 20
    low, high = interval(draw(task, answers, truths), 100) or (0, 0)
    assert low <= score["wer"] <= high
    assert high > 0


@pytest.mark.parametrize("metric", [name for name, metric in METRICS.items() if metric.tally is not None])
def test_score_and_tally_agree_on_hard_texts(metric: str) -> None:
    task = ManifestTask("mine", None, kind="dense", metric=metric, instruction="x")
    truths, answers = ["", "今天天气很好", "a b", "हैं", ""], ["x y", "今天天氣很好", "", "है", ""]
    tally = task.tally(answers, truths)
    assert tally is not None
    assert tally.counts.shape[0] == len(truths)
    assert tally.total(tally.counts.sum(axis=0)) == pytest.approx(task.score(answers, truths)[metric])
    assert np.isfinite(tally.counts).all()


CHINESE = ["今天天气很好，我们去公园散步。", "他昨天买了一本新书。"]
ANSWERS = ["今天天气很好，我们去公园走走。", "他昨天买了一本新的书。"]


def test_bleu_by_script() -> None:
    wanted = sacrebleu.corpus_bleu(ANSWERS, [CHINESE], tokenize="zh").score
    assert wanted > 70
    assert bleu(ANSWERS, CHINESE)["bleu"] == pytest.approx(wanted)
    named = ManifestTask("t", None, kind="dense", metric="bleu", instruction="x", tokenizer="13a")
    assert named.score(ANSWERS, CHINESE)["bleu"] < 1
    assert named.settings["tokenizer"] == "13a"
    assert named.over("x.csv").tokenizer == "13a"


@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [
        ("今天天气很好", "zh"),
        ("昨日新しい本を買いました", "char"),
        ("สวัสดีครับ", "char"),
        ("안녕하세요 여러분", "13a"),
        ("The 東京 tower is red", "13a"),
        ("Привет, мир", "13a"),
        ("", "13a"),
    ],
)
def test_tokenizer_by_script(text: str, tokenizer: str) -> None:
    assert tokenizer_for([text]) == tokenizer


def test_tokenizers_are_checked() -> None:
    with pytest.raises(DataError, match="Did you mean 'zh'"):
        ManifestTask("t", None, kind="dense", metric="bleu", instruction="x", tokenizer="zhh")
    with pytest.raises(DataError, match="belongs to"):
        ManifestTask("t", None, kind="dense", metric="wer", instruction="x", tokenizer="zh")


def test_a_task_file_names_a_tokenizer(tmp_path: Path) -> None:
    from fastadasp.tasks.definition import read_task

    file = tmp_path / "st.toml"
    file.write_text("kind = 'dense'\nmetric = 'bleu'\ninstruction = 'Translate.'\ntokenizer = 'char'\n")
    assert read_task(file).tokenizer == "char"
