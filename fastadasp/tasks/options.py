"""Questions with options: how they are written in a prompt, and which option an answer names.

The reference of a question with lettered options holds the letter of the right one and, below it, all of them, so
that an answer can be scored from the reference alone::

    B
    A. a cat
    B. a dog
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from fastadasp.errors import DataError
from fastadasp.files import parse_json
from fastadasp.tasks.normalisers import basic

_LINE = re.compile(r"^([A-Z])\. (.*)$")
_SEVERAL = re.compile(r"^\W*[A-Z]\W*\s*(?:or|and|,|/|&)\s*[(\[]?[A-Z](?![\w'])")
"""Two letters side by side: ``(A) or (B)``, ``A, C``."""
_MARKED = re.compile(r"^[^\w(\[]*[(\[]?([A-Z])(?:[)\].:,\uff09\u3001\uff0e\uff1a*]|\s*$|\s*\n)")
"""A letter at the beginning of an answer, marked as one: ``(B)``, ``B.``, ``B:``, ``**B**``, or alone on its line."""
_SMALL = re.compile(r"^\W*([a-z])\W*$")
"""A small letter that is the whole answer."""
_SAID = re.compile(
    r"(?:\b(?:[Aa]nswer|ANSWER|[Oo]ption|OPTION|[Cc]hoice|CHOICE)|\u7b54\u6848|\u9009\u9879|\u9009\u62e9|\u9009)"
    r"(?:\s+(?:is|would be|must be|should be)|\s*[:=\uff1a]|\s*\u662f)*"
    r"\s*(?:[Oo]ption|[Ll]etter|[Cc]hoice)?\s*[*(\[\"']*"
    r"([A-Z](?![\w'])(?!\s[a-z])|[a-z](?=\W*$))"
)
"""``The answer is B``, ``Option B``, ``Answer: (B)``."""
_BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]")
_ALONE = re.compile(r"(?<![\w'])(?<!not )(?:([B-HJ-Z])(?![\w'])|([AI])(?=\W*$))")
"""A capital letter as a word of its own; A and I are words of English unless they end the answer."""


def letters(options: Sequence[str]) -> str:
    """The options as a prompt has them: one a line, ``A. ...``."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False))


def options_of(values: Mapping[str, Any], columns: Sequence[str], where: str) -> list[str]:
    """The options of a row, without those that are empty.

    Args:
        columns: one column with a list of them (or a list written as JSON, or texts by letter), or one column for each.
        where: the place of the row, for messages.

    Raises:
        DataError: a column is not there, or there are fewer than two options or more than 26.
    """
    missing = [name for name in columns if name not in values]
    if missing and len(missing) == len(columns):
        raise DataError(f"{where}: it has no options in {', '.join(columns)}; it has: {', '.join(map(str, values))}")
    found = values[columns[0]] if len(columns) == 1 else [values.get(name) for name in columns]
    if isinstance(found, str):
        try:
            found = parse_json(found)
        except ValueError:
            found = None
    if isinstance(found, dict):  # letters and texts
        found = [found[letter] for letter in sorted(found)]
    if not isinstance(found, list | tuple):
        raise DataError(f"{where}: {columns[0]!r} is no list of options")
    options = [_plain(str(option)) for option in found if option is not None and str(option).strip()]
    if not 2 <= len(options) <= len(ascii_uppercase):
        raise DataError(f"{where}: it has {len(options)} options; a question has 2 to {len(ascii_uppercase)}")
    return options


def _plain(option: str) -> str:
    """An option on one line, without a letter of its own before it."""
    text = " ".join(option.split())
    return re.sub(r"^(?:\([A-Z]\)|[A-Z][.):])\s+(?=\S)", "", text)


def reference_of(answer: str, options: Sequence[str], where: str) -> str:
    """The reference of a question with lettered options.

    Args:
        answer: the right option, as its text or its letter.

    Raises:
        DataError: it names none of them.
    """
    place = find(answer, options)
    if place is None:
        raise DataError(f"{where}: the answer {answer!r} names none of the options {', '.join(map(repr, options))}")
    return f"{ascii_uppercase[place]}\n{letters(options)}"


def read_reference(reference: str) -> tuple[str, list[str]]:
    """The right letter and the options of a reference that `reference_of` wrote. Raises DataError for another text."""
    first, *rest = reference.split("\n")
    lines = [_LINE.match(line) for line in rest]
    options = [line[2] for line in lines if line is not None]
    if len(options) != len(rest) or len(first) != 1 or first not in ascii_uppercase[: len(options)]:
        raise DataError(f"{reference!r} is no reference with lettered options")
    return first, options


def find(answer: str, options: Sequence[str], lettered: bool = True) -> int | None:
    """Which option an answer names, counted from 0; None if it names none, or more than one.

    The option's whole text counts first, then a letter that is marked as one (``B``, ``(B)``, ``B. a dog``, ``The
    answer is B``), then the one option whose text occurs in the answer, then a capital letter that stands alone.

    Args:
        lettered: whether options have letters; without them only texts count.
    """
    text = unicodedata.normalize("NFKC", answer).strip()
    words, wanted = basic(text), [basic(option) for option in options]
    if words and wanted.count(words) == 1:
        return wanted.index(words)
    known = ascii_uppercase[: len(options)] if lettered else ""
    if lettered:
        small = _SMALL.match(text)
        begins = _MARKED.match(text) or (_MARKED.match(text.upper()) if small else None)
        if _SEVERAL.match(text):
            return None
        if begins is not None:
            return known.find(begins[1]) if begins[1] in known else None
        for pattern in (_SAID, _BRACKETED):
            named = {letter.upper() for letter in pattern.findall(text)} & set(known)
            if named:
                return known.index(named.pop()) if len(named) == 1 else None
    inside = _mentioned(words, wanted)
    if inside:
        return inside[0] if len(inside) == 1 else None
    alone = {first or last for first, last in _ALONE.findall(text)} & set(known)
    return known.index(alone.pop()) if len(alone) == 1 else None


def find_label(answer: str, labels: Sequence[str]) -> int | None:
    """Which label an answer names; labels that are the letters A, B, ... stand for options that nobody wrote down."""
    if list(labels) == list(ascii_uppercase[: len(labels)]):
        return find(answer, [""] * len(labels))
    return find(answer, labels, lettered=False)


def _mentioned(words: str, options: Sequence[str]) -> list[int]:
    """The options whose words occur in the answer, and not only inside a longer option that occurs there, too."""
    rest, found = f" {words} ", []
    for place in sorted(range(len(options)), key=lambda place: -len(options[place])):
        phrase = f" {options[place]} "
        if phrase.strip() and phrase in rest:
            found.append(place)
            rest = rest.replace(phrase, "  ")
    return sorted(found)


def settle(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] = ()
) -> tuple[list[str], list[str], int]:
    """Answers and references as plain labels that can be compared, and how many answers name no option.

    Args:
        labels: the options of every question, without letters; empty where each reference has lettered ones.
    """
    guesses, truths, unclear = [], [], 0
    for prediction, reference in zip(predictions, references, strict=True):
        if labels:
            right, place = find_label(reference, labels), find_label(prediction, labels)
            names = [basic(label) for label in labels]
            truth = basic(reference) if right is None else names[right]
        else:
            truth, options = read_reference(reference)
            names, place = list(ascii_uppercase[: len(options)]), find(prediction, options)
        unclear += place is None
        guesses.append("" if place is None else names[place])
        truths.append(truth)
    return guesses, truths, unclear
