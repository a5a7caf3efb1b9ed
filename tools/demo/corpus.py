"""The training corpus: augmented clips with the questions that can be asked about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fastadasp.demo import prompts
from tools.demo import synthetic
from tools.demo.audio import DIGITS, GERMAN, RATE, Wave, disturb, join, read
from tools.demo.features import FeatureMaker
from tools.demo.splits import EMODB_GENDER, Recording

SPEEDS = (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15)
GENDERS = {"F": "female", "M": "male"}


@dataclass
class Clip:
    """One training clip: `questions` are (task, instructions to choose from, answer)."""

    features: Tensor
    questions: list[tuple[str, tuple[str, ...], str]]


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


def number_questions(digits: list[int]) -> list[tuple[str, tuple[str, ...], str]]:
    """What is asked about a spoken number: transcription and translation."""
    english, german = (" ".join(words[d] for d in digits) for words in (DIGITS, GERMAN))
    return [("asr", prompts.INSTRUCTIONS["asr"], english), ("st", prompts.INSTRUCTIONS["st"], german)]


def order_questions(slots: dict[str, str]) -> list[tuple[str, tuple[str, ...], str]]:
    """What is asked about a coffee order: each slot."""
    return [("sqa", asked, slots.get(slot, prompts.NOT_ORDERED)) for slot, asked in prompts.QUESTIONS.items()]


def gender_question(gender: str) -> tuple[str, tuple[str, ...], str]:
    return ("gender", prompts.INSTRUCTIONS["gender"], GENDERS[gender])


def sounds(
    recordings: list[Recording], sizes: Sizes, seed: int
) -> Iterator[tuple[Wave, list[tuple[str, tuple[str, ...], str]]]]:
    """Every training clip with its questions; test recordings are never touched."""
    train = [r for r in recordings if not r.test]
    rng = np.random.default_rng(seed)
    yield from _numbers(train, sizes, rng)
    for r in (r for r in train if r.folder == "emotion"):
        for copy in range(sizes.emotion_copies):
            speed = float(rng.choice([0.9, 0.95, 1.05, 1.1])) if copy else 1.0
            feeling = ("er", prompts.INSTRUCTIONS["er"], str(r.labels["emotion"]))
            yield disturb(read(r.path, speed), rng, mild=True), [feeling, gender_question(EMODB_GENDER[r.speaker])]
    for r in (r for r in train if r.folder == "voices"):
        for copy in range(sizes.voice_copies):
            wave = read(r.path, float(rng.choice([0.95, 1.0, 1.05])))
            seconds = float(rng.uniform(1.5, 8.0) if copy % 4 == 0 else rng.uniform(1.5, 4.0))
            begin = int(rng.uniform(0, max(len(wave) - seconds * RATE, 1)))
            yield disturb(wave[begin : begin + int(seconds * RATE)], rng), [gender_question(str(r.labels["gender"]))]
    orders = [r for r in train if r.folder == "orders"]
    for r in orders:
        for copy in range(sizes.order_copies):
            speed = float(rng.choice(SPEEDS)) if copy else 1.0
            yield disturb(read(r.path, speed), rng), order_questions(r.labels["slots"])
    known = {
        slot: sorted({r.labels["slots"][slot] for r in orders if slot in r.labels["slots"]})
        for slot in prompts.QUESTIONS
    }
    for wave, slots in synthetic.spoken_orders(known, sizes.synthetic_orders, rng):
        yield disturb(wave, rng), order_questions(slots)


def _numbers(
    train: list[Recording], sizes: Sizes, rng: np.random.Generator
) -> Iterator[tuple[Wave, list[tuple[str, tuple[str, ...], str]]]]:
    by_speaker: dict[str, list[list[Recording]]] = {}
    for r in train:
        if r.folder == "digits":
            by_speaker.setdefault(r.speaker, [[] for _ in DIGITS])[r.labels["digit"]].append(r)
    speakers = sorted(by_speaker)

    def real(digits: list[int]) -> list[Wave]:
        bank = by_speaker[speakers[int(rng.integers(len(speakers)))]]
        speed = float(rng.choice(SPEEDS))
        return [read(bank[d][int(rng.integers(len(bank[d])))].path, speed) for d in digits]

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
            yield disturb(joined, rng), number_questions(digits[:heard])


def build(
    recordings: list[Recording],
    maker: FeatureMaker,
    sizes: Sizes,
    seed: int,
    workers: int,
    progress: Callable[[int], None],
) -> list[Clip]:
    """The corpus with encoder features; calls `progress(clips done)`."""
    clips: list[Clip] = []
    batch: list[tuple[Wave, list[tuple[str, tuple[str, ...], str]]]] = []

    def flush() -> None:
        for (_, asked), features in zip(batch, maker.many([wave for wave, _ in batch], workers), strict=True):
            clips.append(Clip(features, asked))
        batch.clear()
        progress(len(clips))

    for item in sounds(recordings, sizes, seed):
        batch.append(item)
        if len(batch) == 128:
            flush()
    flush()
    return clips
