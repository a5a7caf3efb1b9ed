"""Sentences for training speech, from plain text files, and the form in which transcripts are written."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

QUOTES = "\u201d\u2019\u2018\u201c"
"""Typographic quotation marks; the second and third also stand for an apostrophe."""

SPOKEN = {"mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint", "etc": "et cetera"}
"""Abbreviations as they are read aloud."""


def normalise(text: str) -> str:
    """Lower case, no punctuation but apostrophes inside words, abbreviations written out: the form of every transcript.

    >>> normalise("Mr. Weston's ball-room, I believe?")
    "mister weston's ball room i believe"
    """
    text = re.sub("[\u2018\u2019]", "'", text.lower())
    words = re.sub(r"[^a-z' ]+", " ", text).split()
    words = [w.strip("'") for w in words]
    return " ".join(SPOKEN.get(w, w) for w in words if w)


def speakable(text: str) -> bool:
    """Whether the spoken words follow from the letters: no digits, no capitals in a row, English letters alone."""
    return bool(re.fullmatch(rf"[A-Za-z ,.;:!?'\"(){QUOTES}\u2014_-]+", text)) and not re.search(r"[A-Z]{3}", text)


UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
UNITS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(number: int) -> str:
    """A number below 1000 as it is read.

    >>> in_words(342)
    'three hundred and forty two'
    """
    if number < 20:
        return UNITS[number]
    if number < 100:
        return f"{TENS[number // 10]} {UNITS[number % 10]}".removesuffix(" zero")
    rest = f" and {in_words(number % 100)}" if number % 100 else ""
    return f"{UNITS[number // 100]} hundred{rest}"


def without_figures(text: str) -> str | None:
    """Whole numbers of up to three figures in words; None where others have many readings.

    >>> without_figures("Chapter 34. The Law")
    'Chapter thirty four. The Law'
    """
    text = re.sub(r"(?<![\d$£.,:/-])\b\d{1,3}\b(?![%:/-]|[.,]\d|'s)", lambda m: in_words(int(m[0])), text)
    return None if re.search(r"[\d$%&£]", text) else text


def sentences(paths: Iterable[Path], least: int = 4, most: int = 30) -> list[str]:
    """Sentences and clauses of `least` to `most` words, each once, in the order of the files."""
    found: dict[str, None] = {}
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="ignore").replace("_", "")
        for paragraph in re.split(r"\n\s*\n|\n%\n", text):
            line = re.sub(r"\s+", " ", re.sub(r"(\w)--(\w)", r"\1, \2", paragraph)).replace("--", ", ")
            line = re.sub(r"\b(Mrs?|Dr|St)\. ", lambda m: m[1] + "\0 ", line)
            for part in re.split(rf"(?<=[.!?;])[\"'{QUOTES}]?\s+", line):
                part = part.replace("\0", ".").strip(" \"'" + QUOTES)
                if least <= len(part.split()) <= most and speakable(part):
                    found[part] = None
    return list(found)


def overlapping(text: str, kept_apart: set[tuple[str, ...]], size: int = 6) -> bool:
    """Whether `size` words in a row also stand in a text that is kept apart."""
    return not runs(text, size).isdisjoint(kept_apart)


def runs(text: str, size: int = 6) -> set[tuple[str, ...]]:
    """Every run of `size` normalised words."""
    words = normalise(text).split()
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def draw(found: list[str], count: int, seed: int) -> list[str]:
    """`count` of them at random, first those with a word that was drawn less than three times: a wide vocabulary."""
    order = random.Random(seed).sample(found, len(found))
    times: Counter[str] = Counter()
    rare: list[str] = []
    common: list[str] = []
    for text in order:
        words = set(normalise(text).split())
        (rare if any(times[word] < 3 for word in words) else common).append(text)
        times.update(words)
    return (rare + common)[:count]
