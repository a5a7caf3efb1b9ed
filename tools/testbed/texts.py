"""Sentences for training speech, from plain text files, and the form in which transcripts are written."""

from __future__ import annotations

import random
import re
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
    """`count` of them at random."""
    return random.Random(seed).sample(found, min(count, len(found)))
