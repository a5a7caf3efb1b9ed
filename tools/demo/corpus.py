"""The training corpus: augmented clips with the questions that can be asked about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastadasp.demo import prompts
from fastadasp.errors import DataError
from tools.demo import synthetic
from tools.demo.audio import DIGITS, GERMAN, LONGEST, RATE, Wave, augment, disturb, join, noise, read, stretch
from tools.demo.features import FeatureMaker
from tools.demo.splits import EMODB_GENDER, Recording

Question = tuple[str, tuple[str, ...], str]
"""A task, instructions to choose from, and the answer."""
Spoken = tuple[Wave, list[Question], str]
"""A sound, what is asked about it, and its group: groups of a task are drawn equally often."""

SPEEDS = (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15)
GENDERS = {"F": "female", "M": "male"}


@dataclass
class Clip:
    """One training clip: `questions` are (task, instructions to choose from, answer); `group`: see `Spoken`."""

    features: Tensor
    questions: list[Question]
    group: str = ""


@dataclass(frozen=True)
class Sizes:
    """How many training clips of each kind; `copies` are augmentations of each recording."""

    numbers: int = 2600
    long_numbers: int = 200
    synthetic_numbers: int = 500
    emotion_copies: int = 9
    order_copies: int = 4
    synthetic_orders: int = 800
    voice_copies: int = 14
    lengths: int = 1200
    """Numbers of 2 to 30 s in equal shares."""
    absent: int = 300
    """Clips of no order at all: each slot is answered `none`, and transcripts of silence and noise are empty."""
    longer: int = 1200
    """Numbers of 21 to 30 digits, more than test clips have: who never heard them cannot end a longer answer."""


def number_questions(digits: list[int]) -> list[Question]:
    """What is asked about a spoken number: transcription and translation."""
    english, german = (" ".join(words[d] for d in digits) for words in (DIGITS, GERMAN))
    return [("asr", prompts.INSTRUCTIONS["asr"], english), ("st", prompts.INSTRUCTIONS["st"], german)]


def order_questions(slots: dict[str, str]) -> list[Question]:
    """What is asked about a coffee order: each slot."""
    return [("sqa", asked, slots.get(slot, prompts.NOT_ORDERED)) for slot, asked in prompts.QUESTIONS.items()]


def gender_question(gender: str) -> Question:
    return ("gender", prompts.INSTRUCTIONS["gender"], GENDERS[gender])


def sounds(recordings: list[Recording], sizes: Sizes, seed: int) -> Iterator[Spoken]:
    """Every training clip with its questions; test recordings are never touched."""
    train = [r for r in recordings if not r.test]
    rng = np.random.default_rng(seed)
    real = _Digits(train, rng)
    yield from _numbers(real, sizes, rng)
    for r in (r for r in train if r.folder == "emotion"):
        for copy in range(sizes.emotion_copies):
            speed = float(rng.choice([0.9, 0.95, 1.05, 1.1])) if copy else 1.0
            feeling = ("er", prompts.INSTRUCTIONS["er"], str(r.labels["emotion"]))
            asked = [feeling, gender_question(EMODB_GENDER[r.speaker])]
            yield disturb(_slower(read(r.path, speed), copy, rng), rng, mild=True), asked, f"emotion {r.speaker}"
    for r in (r for r in train if r.folder == "voices"):
        for copy in range(sizes.voice_copies):
            wave = read(r.path, float(rng.choice([0.95, 1.0, 1.05])))
            seconds = float(rng.uniform(1.5, 8.0) if copy % 4 == 0 else rng.uniform(1.5, 4.0))
            begin = int(rng.uniform(0, max(len(wave) - seconds * RATE, 1)))
            cut = _slower(wave[begin : begin + int(seconds * RATE)], copy, rng)
            yield augment(cut, rng), [gender_question(str(r.labels["gender"]))], f"voice {r.labels['gender']}"
    orders = [r for r in train if r.folder == "orders"]
    for r in orders:
        for copy in range(sizes.order_copies):
            speed = float(rng.choice(SPEEDS)) if copy else 1.0
            yield augment(_slower(read(r.path, speed), copy, rng), rng), order_questions(r.labels["slots"]), "order"
    known = {
        slot: sorted({r.labels["slots"][slot] for r in orders if slot in r.labels["slots"]})
        for slot in prompts.QUESTIONS
    }
    for wave, slots in synthetic.spoken_orders(known, sizes.synthetic_orders, rng):
        yield augment(wave, rng), order_questions(slots), "spoken order"
    yield from _absent(train, sizes, rng)
    for _ in range(sizes.longer):
        yield *real.timed(float(rng.uniform(12, 29.5)), 21, 30), "longer numbers"


class _Digits:
    """Recordings of single digits, spoken as numbers by one speaker after the other."""

    def __init__(self, train: list[Recording], rng: np.random.Generator) -> None:
        self.rng = rng
        self.banks: dict[str, list[list[Recording]]] = {}
        for r in train:
            if r.folder == "digits":
                self.banks.setdefault(r.speaker, [[] for _ in DIGITS])[r.labels["digit"]].append(r)
        self.speakers = sorted(self.banks)

    def __call__(self, digits: list[int]) -> list[Wave]:
        bank = self.banks[self.speakers[int(self.rng.integers(len(self.speakers)))]]
        speed = float(self.rng.choice(SPEEDS))
        return [read(bank[d][int(self.rng.integers(len(bank[d])))].path, speed) for d in digits]

    def timed(self, seconds: float, fewest: int, most: int) -> tuple[Wave, list[Question]]:
        """A number of `fewest` to `most` digits, which lasts about `seconds`."""
        count = int(self.rng.integers(fewest, most + 1))
        digits = [int(d) for d in self.rng.integers(0, 10, count)]
        speed = float(self.rng.choice([0.8, 0.9, 1.0, 1.0, 1.1, 1.3, 1.5]))
        waves = [_stretched(wave, speed) for wave in self(digits)]
        spare = min(seconds * RATE, LONGEST) - sum(map(len, waves))
        joined, heard = join(waves, self.rng, min(max(0.1, 2 * spare / RATE / count), 2.5))
        return augment(joined, self.rng), number_questions(digits[:heard])


def _numbers(real: _Digits, sizes: Sizes, rng: np.random.Generator) -> Iterator[Spoken]:
    machine = synthetic.spoken_digits() if sizes.synthetic_numbers else {}
    names = sorted(machine)

    def spoken(digits: list[int]) -> list[Wave]:
        bank = machine[names[int(rng.integers(len(names)))]]
        return [bank[d] for d in digits]

    plan: list[tuple[Callable[[list[int]], list[Wave]], int, float]] = [
        (real, sizes.numbers, 0.45),
        (real, sizes.long_numbers, 1.1),
        (spoken, sizes.synthetic_numbers if names else 0, 0.45),
    ]
    for source, count, pause in plan:
        for _ in range(count):
            low, high = (12, 21) if pause > 1 else (1, 21)
            digits = [int(d) for d in rng.integers(0, 10, int(rng.integers(low, high)))]
            joined, heard = join(source(digits), rng, pause)
            yield augment(joined, rng), number_questions(digits[:heard]), "numbers"
    for _ in range(sizes.lengths):
        seconds = float(rng.uniform(2, 29.5))
        fewest, most = (min(20, max(2, round(seconds / each))) for each in (1.5, 0.6))
        wave, asked = real.timed(seconds, fewest, most)
        yield wave, asked, f"numbers {int(len(wave) / RATE / 6)}"


def _absent(train: list[Recording], sizes: Sizes, rng: np.random.Generator) -> Iterator[Spoken]:
    """Clips without an order: silence and noise, of which a transcript is empty, too; digits and read speech."""
    other = [r for r in train if r.folder in ("digits", "voices")]
    for turn in range(sizes.absent):
        length = int(rng.uniform(1, 10) * RATE)
        kind = turn % 3
        if kind == 0:
            wave = np.zeros(length, np.float32)
        elif kind == 1:
            wave = noise(length, rng) * np.float32(10 ** rng.uniform(-4, -1))
        else:
            wave = augment(read(other[int(rng.integers(len(other)))].path)[:length], rng)
        unspoken = number_questions([]) if kind < 2 else []
        yield wave, order_questions({}) + unspoken, "no order"


def _slower(wave: Wave, copy: int, rng: np.random.Generator) -> Wave:
    """Every third copy at another speed and the same pitch."""
    return _stretched(wave, float(rng.choice([0.8, 0.9, 1.1, 1.2]))) if copy % 3 == 2 else wave


def _stretched(wave: Wave, speed: float) -> Wave:
    return wave if speed == 1.0 else stretch(wave, speed)


def build(
    recordings: list[Recording],
    maker: FeatureMaker,
    sizes: Sizes,
    seed: int,
    workers: int,
    progress: Callable[[int], None],
    keep: Path,
) -> list[Clip]:
    """The corpus with encoder features; calls `progress(clips done)`.

    Args:
        keep: folder for the features of each batch, from which they are read when the same corpus is built again.
    """
    clips: list[Clip] = []
    for number, batch in enumerate(_batched(sounds(recordings, sizes, seed), 128)):
        waves = [wave for wave, _, _ in batch]
        file = keep / f"{number:04}.pt"
        if file.is_file():
            made = torch.load(file, weights_only=True)
            if [len(features) for features in made] != [maker.tokens(wave) for wave in waves]:
                raise DataError(f"{file} has the features of other sounds; remove {keep} to make them anew")
        else:
            made = maker.many(waves, workers)
            torch.save(made, keep / "part.new")
            (keep / "part.new").replace(file)
        clips += [Clip(features, asked, group) for (_, asked, group), features in zip(batch, made, strict=True)]
        progress(len(clips))
    return clips


def _batched(items: Iterable[Spoken], size: int) -> Iterator[list[Spoken]]:
    """`size` at a time, the last ones fewer."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
