"""Normalisers: what texts go through before they are compared."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

Normaliser = Callable[[str], str]

APOSTROPHES = dict.fromkeys(map(ord, "\u2018\u2019\u02bc\u02b9\uff07\u00b4`"), "'")
"""What people and models write for an apostrophe."""
_DIVIDER = "\u200b"
"""The zero-width space, which divides words where a script writes no spaces."""


class _Letters(dict[int, str]):
    """What each character becomes for `basic`, found out once."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)
        if code in APOSTROPHES or character == "'":
            kept = "'"
        elif kind[0] in "LMN" or character == "_":  # a script's vowel signs and accents are marks (M)
            kept = "" if "\ufe00" <= character <= "\ufe0f" else character  # how an emoji is to look is no letter
        else:
            kept = "" if kind == "Cf" and character != _DIVIDER else " "  # joiners stand inside words
        self[code] = kept
        return kept


_LETTERS = _Letters()


def basic(text: str) -> str:
    """Lower case, no punctuation, single spaces; digits and words of every script stay what they are.

    Letters keep their combining marks (vowel signs, accents), composed where Unicode has a composed form (NFC).
    Typographic apostrophes become plain ones.
    """
    text = unicodedata.normalize("NFC", text.lower())
    return " ".join(text.translate(_LETTERS).split())


def whisper_english(text: str) -> str:
    """Whisper's English normaliser, as transformers ships it: also contractions, titles, numbers as digits, no fillers.

    British spellings become American ones by the table that Whisper's checkpoints carry. It joins digits that follow
    one another ("two one four" is "214", one word). Source: Radford et al., ICML 2023, appendix C.
    """
    return str(_whisper()(unicodedata.normalize("NFC", text).translate(APOSTROPHES))).strip()


@cache
def _whisper() -> Any:
    from fastadasp.upstream.texts import EnglishTextNormalizer

    table = resources.files("fastadasp.tasks.data") / "english_spellings.json"
    return EnglishTextNormalizer(json.loads(table.read_text(encoding="utf-8")))


def whisper_multilingual(text: str) -> str:
    """Whisper's normaliser for all languages, as transformers ships it: no punctuation, nothing between brackets.

    Accents stay. It is what the Open ASR leaderboard takes for languages other than English. Source: Radford et al.,
    ICML 2023, appendix C.
    """
    return str(_multilingual()(text)).strip()


@cache
def _multilingual() -> Any:
    from fastadasp.upstream.texts import BasicTextNormalizer

    return BasicTextNormalizer()


def cjk(text: str) -> str:
    """`basic` of the text with full-width forms made plain (NFKC), no spaces beside Chinese or Japanese characters.

    These scripts have no spaces between words, so a character error rate must not count those that a model writes.
    Words in Latin letters keep theirs. Traditional characters stay traditional, and numerals what they are.
    """
    return _BESIDE.sub("", basic(unicodedata.normalize("NFKC", text)))


_CJK = "\u2e80-\u303f\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_BESIDE = re.compile(rf"(?<=[{_CJK}]) +| +(?=[{_CJK}])")
"""Spaces beside a Chinese or Japanese character."""


def none(text: str) -> str:
    """The text as it is, in composed form (NFC): two spellings of the same characters are the same text."""
    return unicodedata.normalize("NFC", text)


NORMALISERS: dict[str, Normaliser] = {
    "basic": basic,
    "whisper-en": whisper_english,
    "whisper-multilingual": whisper_multilingual,
    "cjk": cjk,
    "none": none,
}
"""By name."""
