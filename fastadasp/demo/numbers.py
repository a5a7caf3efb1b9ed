"""Spoken numbers, joined from single digits when a task reads its clips: the same samples on every machine.

Everything is done in whole numbers, with a generator of its own, so that neither libraries nor processors can change a
sample; each clip's checksum is packaged and compared. Recordings are held-out ones alone: none was ever trained on.
Those of the part `choosing` are in no clip of the part `reporting`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from fastadasp.audio import keep_recording
from fastadasp.contracts.task import CHOOSING, REPORTING
from fastadasp.demo.prompts import WORDS
from fastadasp.errors import DataError
from fastadasp.files import cache_folder

RATE = 8000
"""Of the recordings and of the clips."""
SHORTEST, LONGEST = 2 * RATE, 30 * RATE - RATE // 10
"""Samples of a clip; the model hears 30 s."""
STEPS = 5
"""Stretches of length that have equal shares of the clips, and follow one another in turn."""
MOST = 20
"""Digits of a clip, as many as the embedded model was trained with."""
COUNTS = {REPORTING: 600, CHOOSING: 150}
"""Clips of each part."""
SPEEDS = (13, 14, 15, 16)
"""Of fast speech, in tenths."""
VERSION = 1
"""Of what is made; part of the files' names."""

Kind = Literal["plain", "noise", "fast"]
Ints = NDArray[np.int64]


class Dice:
    """SplitMix64: whole numbers that follow from a name alone."""

    def __init__(self, *name: str | int) -> None:
        self.state = int.from_bytes(_digest("/".join(map(str, name))), "big")

    def below(self, count: int) -> int:
        """A whole number in [0, count)."""
        self.state = (self.state + 0x9E3779B97F4A7C15) % (1 << 64)
        bits = self.state
        bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) % (1 << 64)
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) % (1 << 64)
        return (bits ^ (bits >> 31)) * count >> 64

    def between(self, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        return low + self.below(high - low + 1)

    def noise(self, count: int) -> Ints:
        """White noise: `count` sums of four uniform whole numbers, of mean 0 and a standard deviation of about 1182."""
        start = np.uint64(self.below(1 << 63))
        bits = start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = bits ^ (bits >> np.uint64(31))
        parts = [((bits >> np.uint64(shift)) & np.uint64(0x7FF)).astype(np.int64) for shift in (0, 13, 26, 39)]
        return parts[0] + parts[1] + parts[2] + parts[3] - 4094


@dataclass(frozen=True)
class Digit:
    """A recording of one digit: where it lies among its speaker's samples."""

    speaker: str
    digit: int
    begin: int
    length: int
    seen: bool


@dataclass(frozen=True)
class Clip:
    """A number that is to be joined: its digits, the pauses before each and after the last, and how it is spoilt."""

    name: str
    digits: tuple[Digit, ...]
    pauses: tuple[int, ...]
    levels: tuple[int, ...]
    speed: int
    decibels: int | None
    loud: int

    @property
    def spoken(self) -> list[int]:
        """Samples that each digit takes at the clip's speed."""
        return [10 * digit.length // self.speed for digit in self.digits]

    @property
    def samples(self) -> int:
        """The clip's length."""
        return sum(self.pauses) + sum(self.spoken)


def plan(folder: Path, kind: Kind, part: str, number: int) -> Clip:
    """The clip of this number in a part; the first N of a part are a fair mix of lengths and speakers.

    Args:
        folder: with ``digits.json`` and a recording for each speaker.
        kind: `plain`; with `noise` at 0 to 10 dB; or `fast`, at 1.3 to 1.6 times the speed and the same pitch.
    """
    name = f"{kind}-{part}-{number:03d}"
    dice = Dice("numbers", VERSION, name)
    banks = _index(folder)[part]
    seen = bool((number // STEPS) % 2)
    speakers = sorted(speaker for speaker, bank in banks.items() if bank[0][0].seen is seen)
    bank = banks[speakers[dice.below(len(speakers))]]
    step = (LONGEST - SHORTEST) // STEPS
    wanted = SHORTEST + (number % STEPS) * step + dice.below(step)
    speed = SPEEDS[dice.below(len(SPEEDS))] if kind == "fast" else 10
    # a digit takes half a second and more with its pause, and the longest clips have the most digits
    most = min(MOST, max(2, wanted // (3 * RATE // 4)))
    least = min(most, max(2, -(-2 * wanted // (3 * RATE))))
    chosen = [bank[dice.below(10)] for _ in range(dice.between(least, most))]
    digits = [same[dice.below(len(same))] for same in chosen]
    room, shortest = wanted, RATE // 25
    while sum(10 * d.length // speed + shortest for d in digits) + shortest > room:
        digits.pop()  # none is cut: those that do not fit are left out, and their words with them
    spare = room - sum(10 * d.length // speed for d in digits) - shortest * (len(digits) + 1)
    shares = [dice.between(1, 5) for _ in range(len(digits) + 1)]
    pauses = tuple(shortest + spare * share // sum(shares) for share in shares)
    levels = tuple(dice.between(450, 900) for _ in digits)
    decibels = dice.between(0, 10) if kind == "noise" else dice.between(15, 40) if dice.below(5) else None
    return Clip(name, tuple(digits), pauses, levels, speed, decibels, dice.between(400, 950))


def sound(folder: Path, clip: Clip) -> NDArray[np.int16]:
    """The clip's samples at `RATE`."""
    parts = [np.zeros(clip.pauses[0], np.int64)]
    for digit, level, pause in zip(clip.digits, clip.levels, clip.pauses[1:], strict=True):
        wave = faster(_recording(folder, digit), clip.speed)
        parts += [wave * level // 1000, np.zeros(pause, np.int64)]
    wave = np.concatenate(parts)
    if clip.decibels is not None:
        noise = Dice("noise", VERSION, clip.name).noise(len(wave))
        power, own = int((wave * wave).sum()), int((noise * noise).sum())
        ratio = round(10 ** (clip.decibels / 10) * 1000)  # far from a tie, so every library rounds it alike
        gain = isqrt((power * 1000 << 32) // max(own * ratio, 1))
        wave = wave + (noise * gain >> 16)
    top = max(int(np.abs(wave).max()), 1)
    return (wave * (32767 * clip.loud) // (1000 * top)).astype(np.int16)


def faster(wave: Ints, speed: int, rate: int = RATE) -> Ints:
    """A recording `speed` / 10 times as fast and at the same pitch: frames of 30 ms, each laid over the end of the one
    before where the two are most alike."""
    if speed == 10:
        return wave
    length = 10 * len(wave) // speed
    frame, lap, search = 3 * rate // 100, rate // 100, rate // 160
    out = np.zeros(length + 2 * frame, np.int64)
    out[:frame] = wave[:frame] if len(wave) >= frame else np.pad(wave, (0, frame - len(wave)))
    padded = np.pad(wave, (search, 2 * frame + search))
    fade = np.arange(lap, dtype=np.int64)
    hop = frame - lap
    for begin in range(hop, length, hop):
        source = begin * speed // 10  # `search` samples later in `padded`
        old = out[begin : begin + lap]
        near = np.lib.stride_tricks.sliding_window_view(padded[source : source + 2 * search + lap], lap)
        best = source + int((near @ old).argmax())
        new = padded[best : best + frame]
        out[begin : begin + lap] = (old * (lap - fade) + new[:lap] * fade) // lap
        out[begin + lap : begin + frame] = new[lap:]
    return out[:length]


def checksum(wave: NDArray[np.int16]) -> str:
    """CRC-32 of the samples, in hexadecimal digits."""
    return f"{zlib.crc32(wave.astype('<i2').tobytes()):08x}"


def rows(folder: Path, kind: Kind, part: str, language: str) -> Iterator[dict[str, Any]]:
    """The lines of a manifest of joined clips; each is in the cache once its line is asked for.

    Args:
        language: the task whose words the reference has: ``asr`` or ``st``.

    Raises:
        DataError: the recordings cannot be read, a clip is not what it should be, or the cache cannot be written.
    """
    for number in range(COUNTS[part]):
        clip = plan(folder, kind, part, number)
        first = clip.digits[0]
        yield {
            "id": f"{language}-{'' if part == REPORTING else f'{part}-'}{number:03d}",
            "audio_filepath": str(_made(folder, clip, kind, part, number)),
            "duration": round(clip.samples / RATE, 3),
            "reference": " ".join(WORDS[language][digit.digit] for digit in clip.digits),
            "speaker": first.speaker,
            "seen_speaker": first.seen,
            "length": f"{_seconds(number % STEPS)} to {_seconds(number % STEPS + 1)} s",
            "noise_db": "none" if clip.decibels is None else str(clip.decibels),
            "source": "digits",
        }


def _seconds(step: int) -> str:
    return f"{(SHORTEST + step * ((LONGEST - SHORTEST) // STEPS)) / RATE:.1f}"


def _made(folder: Path, clip: Clip, kind: Kind, part: str, number: int) -> Path:
    """The clip's file in the cache, written now if it is not there."""
    file = cache_folder() / "numbers" / f"v{VERSION}" / f"{clip.name}.flac"
    if file.exists():
        return file
    wave = sound(folder, clip)
    known = _read_index(folder)["checksums"][kind][part][number]
    if checksum(wave) != known:
        raise DataError(
            f"clip {clip.name} has other samples than it should (checksum {checksum(wave)}, not {known}): the "
            f"recordings in {folder} were changed, or numpy counts otherwise here"
        )
    keep_recording(file, wave, RATE)
    return file


Banks = dict[str, list[list[Digit]]]
"""By speaker, the recordings of each digit."""


@cache
def _read_index(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "digits.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / 'digits.json'} cannot be read: {error}") from None
    return found


@cache
def _index(folder: Path) -> dict[str, Banks]:
    """The recordings of each part. Of a speaker's recordings of a digit, a quarter are for choosing."""
    out: dict[str, Banks] = {CHOOSING: {}, REPORTING: {}}
    for speaker, about in _read_index(folder)["speakers"].items():
        by_digit: list[list[Digit]] = [[] for _ in range(10)]
        begin = 0
        for digit, length in about["recordings"]:
            by_digit[digit].append(Digit(speaker, digit, begin, length, about["seen"]))
            begin += length
        for part in out:
            out[part][speaker] = [_share(same, part) for same in by_digit]
    return out


def _share(same: list[Digit], part: str) -> list[Digit]:
    count = max(1, len(same) // 4)
    order = sorted(same, key=lambda digit: _digest(f"{digit.speaker}/{digit.digit}/{digit.begin}"))
    return order[:count] if part == CHOOSING else order[count:]


@cache
def _speaker(folder: Path, speaker: str) -> Ints:
    try:
        wave, rate = soundfile.read(folder / f"{speaker}.flac", dtype="int16")
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(f"{folder / speaker}.flac cannot be read: {error}") from None
    if rate != RATE:
        raise DataError(f"{folder / speaker}.flac has {rate} samples a second, not {RATE}")
    return np.asarray(wave, np.int64)


def _recording(folder: Path, digit: Digit) -> Ints:
    return _speaker(folder, digit.speaker)[digit.begin : digit.begin + digit.length]


def _digest(text: str) -> bytes:
    from hashlib import sha256

    return sha256(text.encode()).digest()[:8]
