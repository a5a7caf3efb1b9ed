"""Reading recordings: any format and rate that soundfile reads, folded to mono at the model's rate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from fastadasp.errors import DataError


def read_audio(path: Path, rate: int = 16_000, longest: float | None = None) -> NDArray[np.float32]:
    """A recording as mono float32 [samples] at `rate` Hz.

    Args:
        longest: seconds the model can hear; None for no limit.

    Raises:
        DataError: missing, unreadable, empty or too long, or not finite.
    """
    if not path.is_file():
        raise DataError(f"there is no recording {path}")
    try:
        wave, given = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise DataError(f"{path} cannot be read as audio: {error}") from None
    if len(wave) == 0:
        raise DataError(f"{path} is empty: it holds no samples")
    if not np.isfinite(wave).all():
        raise DataError(f"{path} holds values that are not finite")
    _refuse_longer(path, len(wave) / given, longest)
    return resample(wave.mean(axis=1), given, rate)


def resample(mono: NDArray[np.float32], given: int, rate: int) -> NDArray[np.float32]:
    """Samples at `given` Hz as float32 at `rate` Hz."""
    if given != rate:
        from scipy.signal import resample_poly  # slow to import, so only where rates differ

        ratio = Fraction(rate, given)
        mono = resample_poly(mono, ratio.numerator, ratio.denominator)
    return np.ascontiguousarray(mono, dtype=np.float32)


def check_length(path: Path, longest: float | None) -> None:
    """Refuses a recording of more than `longest` seconds by its header alone. Raises DataError."""
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise DataError(f"{path} cannot be read as audio: {error}") from None
    _refuse_longer(path, info.frames / info.samplerate, longest)


def _refuse_longer(path: Path, seconds: float, longest: float | None) -> None:
    if longest is not None and seconds > longest + 1e-6:
        raise DataError(f"{path} lasts {seconds:.1f} s; this model hears at most {longest:g} s")
