"""Recordings of any length as windows that a model can hear, cut where it is quiet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from fastadasp.audio import LONGEST, check_rate, read_mono, resample, sound_name
from fastadasp.errors import DataError
from fastadasp.files import is_file

FRAME = 0.01
"""Seconds between the places that may be cut."""
PAUSE = 0.2
"""Seconds around a cut whose energy is compared."""
EARLIEST = 0.5
"""Share of a window before which nothing is cut."""


@dataclass(frozen=True)
class Window:
    """A stretch of a recording: from `start` to `end` seconds; `wave` is mono float32 [samples] at the model's rate."""

    start: float
    end: float
    wave: NDArray[np.float32]


def quietest(wave: NDArray[np.float32], rate: int, earliest: int, latest: int) -> int:
    """The sample between `earliest` and `latest` with the least energy around it; the last of equals.

    Args:
        wave: mono [samples] at `rate` Hz; `latest` is at most its length.
    """
    step = max(1, int(FRAME * rate))
    around = max(1, int(PAUSE * rate / 2))
    sums = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
    places = np.arange(latest, earliest - 1, -step)
    left, right = (places - around).clip(0), (places + around).clip(max=len(wave))
    return int(places[np.argmin((sums[right] - sums[left]) / (right - left))])


def windows(path: Path, rate: int, longest: float | None) -> Iterator[Window]:
    """A recording in windows of at most `longest` seconds (None: in one), read as they are needed.

    The cut lies at the quietest place in the second half of a window. Stereo is folded to mono.

    Raises:
        DataError: missing, unreadable, empty or not finite; also in the middle, after the windows before it.
    """
    if not is_file(path):
        raise DataError(f"there is no recording {path}")
    try:
        with soundfile.SoundFile(sound_name(path)) as file:
            yield from _cut(path, file, rate, longest)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise DataError(f"{path} cannot be read as audio: {error}") from None


def _cut(path: Path, file: soundfile.SoundFile, rate: int, longest: float | None) -> Iterator[Window]:
    given = file.samplerate
    check_rate(given, path)
    most = None if longest is None else int(longest * given)
    held, begin, finished = np.zeros(0, dtype=np.float32), 0, False
    while not finished or len(held):
        # one more than fits tells that something follows
        wanted = int(LONGEST * given) if most is None else most + 1 - len(held)
        if not finished:
            block = read_mono(file, wanted, path)
            finished = len(block) < wanted
            if most is None and not finished:
                raise DataError(f"{path} lasts more than {LONGEST:g} s; give a window")
            held = np.concatenate([held, block])
        if not len(held):
            break
        cut = len(held) if most is None or len(held) <= most else quietest(held, given, int(EARLIEST * most), most)
        yield Window(begin / given, (begin + cut) / given, resample(held[:cut], given, rate))
        held, begin = held[cut:], begin + cut
    if begin == 0:
        raise DataError(f"{path} is empty: it holds no samples")


def whole(wave: NDArray[np.float32], given: int, rate: int, longest: float | None) -> Iterator[Window]:
    """Samples in memory, float [samples] or [samples, channels] at `given` Hz, in windows. Raises DataError."""
    check_rate(given, "the recording in memory")
    samples = np.asarray(wave, dtype=np.float32)
    if samples.ndim not in (1, 2) or not len(samples):
        raise DataError(f"samples of shape {samples.shape} are no recording; expected [samples] or [samples, channels]")
    if not np.isfinite(samples).all():
        raise DataError("the samples hold values that are not finite")
    mono, begin = samples if samples.ndim == 1 else samples.mean(axis=1), 0
    most = len(mono) if longest is None else int(longest * given)
    while begin < len(mono):
        left = mono[begin:]
        cut = len(left) if len(left) <= most else quietest(left[: most + 1], given, int(EARLIEST * most), most)
        yield Window(begin / given, (begin + cut) / given, resample(left[:cut], given, rate))
        begin += cut
