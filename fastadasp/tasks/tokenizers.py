"""What BLEU's n-grams are made of: sacrebleu's tokenizers, by name or by the script of the references."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fastadasp.errors import DataError, did_you_mean

TOKENIZERS = ("13a", "intl", "zh", "char", "ja-mecab", "ko-mecab", "none")
"""Names that a task may give: sacrebleu's, without those that download a model."""
USUAL = "13a"
"""sacrebleu's own default, for scripts that put spaces between words."""

_UNSPACED = {
    "CJK": "zh",
    "HIRAGANA": "char",
    "KATAKANA": "char",
    "THAI": "char",
    "LAO": "char",
    "KHMER": "char",
    "MYANMAR": "char",
    "TIBETAN": "char",
}
"""Scripts without spaces between words, as Unicode's names of characters begin, and the tokenizer that fits each."""


def tokenizer_for(references: Sequence[str]) -> str:
    """The tokenizer that fits the script that most letters of the references are written in.

    Chinese has ``zh``; Japanese, Thai, Lao, Khmer, Burmese and Tibetan have ``char``, which needs no further package;
    every other script has ``13a``. Published figures for Japanese and Korean mostly use ``ja-mecab`` and ``ko-mecab``:
    a task names these itself.
    """
    scripts = Counter(_script(letter) for text in references for letter in text if letter.isalpha())
    kana = scripts["HIRAGANA"] + scripts["KATAKANA"]
    unspaced = sum(count for script, count in scripts.items() if script in _UNSPACED)
    if unspaced * 2 <= scripts.total():
        return USUAL
    if kana and kana * 5 >= scripts["CJK"]:  # Japanese mixes both; Chinese has kana in names at most
        return "char"
    return _UNSPACED[max(_UNSPACED, key=lambda script: scripts[script])]


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").split(" ", 1)[0]


def sacrebleu_for(tokenizer: str | None, references: Sequence[str]) -> Any:
    """sacrebleu's BLEU with a tokenizer, or with the one that fits the references.

    Raises:
        DataError: no such tokenizer, or its package is not installed.
    """
    from sacrebleu.metrics.bleu import BLEU

    check_tokenizer(tokenizer)
    name = tokenizer or tokenizer_for(references)
    try:
        return BLEU(tokenize=name, effective_order=True)
    except (ImportError, RuntimeError):
        extra = name.split("-")[0]
        raise DataError(
            f"tokenizer {name!r} needs a package: pip install 'sacrebleu[{extra}]', or name the tokenizer 'char'"
        ) from None


def check_tokenizer(name: str | None) -> None:
    """Raises DataError for a name that is not one of `TOKENIZERS`."""
    if name is not None and name not in TOKENIZERS:
        guess = did_you_mean(name, TOKENIZERS)
        raise DataError(f"tokenizer is one of {', '.join(TOKENIZERS)}, not {name!r}.{guess}")
