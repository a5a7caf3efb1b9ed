"""Normalisers: what texts go through before they are compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

Normaliser = Callable[[str], str]


def basic(text: str) -> str:
    """Lower case, no punctuation, single spaces. Digits and words stay what they are."""
    return " ".join(re.sub(r"[^\w\s']", " ", text.lower()).split())


def whisper_english(text: str) -> str:
    """Whisper's English normaliser, as transformers ships it: also contractions, titles, numbers as digits, no fillers.

    American and British spellings stay apart: the table that unites them comes with Whisper's checkpoints, not with the
    package. It joins digits that follow one another ("two one four" is "214", one word). Source: Radford et al., ICML
    2023, appendix C.
    """
    return str(_whisper()(text)).strip()


@cache
def _whisper() -> Any:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})


def none(text: str) -> str:
    """The text as it is."""
    return text


NORMALISERS: dict[str, Normaliser] = {"basic": basic, "whisper-en": whisper_english, "none": none}
"""By name."""
