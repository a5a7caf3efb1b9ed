"""Reading recordings: any format and rate that soundfile reads, folded to mono at the model's rate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from fastadasp.errors import DataError
from fastadasp.files import is_file, whole

SLOWEST, FASTEST = 100, 1_000_000
"""Hz: what is outside is a damaged header."""
LONGEST = 24 * 3600.0
"""Seconds of a recording that is read as a whole, where the model sets no limit."""
BLOCK = 1 << 18
"""Samples of every channel that are read at a time."""


def read_audio(path: Path, rate: int = 16_000, longest: float | None = None) -> NDArray[np.float32]:
    """A recording as mono float32 [samples] at `rate` Hz.

    Args:
        longest: seconds the model can hear; None for no limit.

    Raises:
        DataError: missing, unreadable, empty or too long, or not finite.
    """
    if not is_file(path):
        raise DataError(f"there is no recording {path}")
    try:
        with soundfile.SoundFile(sound_name(path)) as file:
            given = file.samplerate
            check_rate(given, path)
            most = int(given * (LONGEST if longest is None else longest + 1)) + 1
            wave = read_mono(file, most, path)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise DataError(f"{path} cannot be read as audio: {error}") from None
    if len(wave) == 0:
        raise DataError(f"{path} is empty: it holds no samples")
    if len(wave) == most:
        _refuse_longer(path, max(file_seconds(path), most / given), LONGEST if longest is None else longest)
    _refuse_longer(path, len(wave) / given, longest)
    return resample(wave, given, rate)


def sound_name(path: Path | str) -> str | bytes:
    """A file's name as soundfile takes it: as text, or as bytes where it is not UTF-8."""
    name = os.fspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name)
    return name


def read_mono(file: soundfile.SoundFile, most: int, path: Path) -> NDArray[np.float32]:
    """Up to `most` further samples, folded to mono, [samples]; fewer at the end.

    They are read in blocks: what a header claims is not trusted, and a block of all channels is all that is held.

    Raises:
        DataError: not finite.
    """
    blocks: list[NDArray[np.float32]] = []
    wanted = most
    while wanted > 0:
        block = file.read(min(wanted, BLOCK), dtype="float32", always_2d=True)
        if not len(block):
            break
        if not np.isfinite(block).all():
            raise DataError(f"{path} holds values that are not finite")
        blocks.append(block.mean(axis=1))
        wanted -= len(block)
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


def check_rate(given: int, path: Path | str) -> None:
    """Refuses a sampling rate that no recording has. Raises DataError."""
    if not SLOWEST <= given <= FASTEST:
        raise DataError(f"{path} says that it has {given} samples a second; {SLOWEST} to {FASTEST} are possible")


def file_seconds(path: Path) -> float:
    """The length that a file's header claims; 0 if it cannot be read."""
    if not is_file(path):  # a pipe would wait for ever
        return 0.0
    try:
        return float(soundfile.info(sound_name(path)).duration)
    except (soundfile.SoundFileError, RuntimeError, TypeError):
        return 0.0


def resample(mono: NDArray[np.float32], given: int, rate: int) -> NDArray[np.float32]:
    """Samples at `given` Hz as float32 at `rate` Hz."""
    if given != rate:
        from scipy.signal import resample_poly  # slow to import, so only where rates differ

        ratio = Fraction(rate, given)
        mono = resample_poly(mono, ratio.numerator, ratio.denominator)
    return np.ascontiguousarray(mono, dtype=np.float32)


def check_length(path: Path, longest: float | None) -> None:
    """Refuses a recording of more than `longest` seconds by its header alone. Raises DataError."""
    if not is_file(path):
        raise DataError(f"there is no recording {path}")
    try:
        info = soundfile.info(sound_name(path))
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise DataError(f"{path} cannot be read as audio: {error}") from None
    check_rate(info.samplerate, path)
    _refuse_longer(path, info.frames / info.samplerate, longest)


def _refuse_longer(path: Path, seconds: float, longest: float | None) -> None:
    if longest is not None and seconds > longest + 1e-6:
        raise DataError(f"{path} lasts {seconds:.1f} s; this model hears at most {longest:g} s")


@contextmanager
def kept(file: Path) -> Iterator[Path]:
    """A recording of the cache to write, which is there as a whole or not at all (`files.whole`).

    Raises:
        DataError: its folder cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as part:
            yield part
    except (OSError, soundfile.SoundFileError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"recordings cannot be kept in {file.parent}: {why}; set FASTADASP_CACHE") from None


def keep_recording(file: Path, wave: NDArray[Any], rate: int) -> None:
    """Writes mono sound as FLAC of 16 bits into the cache. Raises DataError, as `kept` does."""
    with kept(file) as part:
        soundfile.write(part, wave, rate, format="FLAC", subtype="PCM_16")
