"""Sound for training: reading, changing speed, joining digits into numbers, noise. Mono float32 at 16 kHz."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16_000
Wave = NDArray[np.float32]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GERMAN = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")


@lru_cache(maxsize=4096)
def read(path: Path, speed: float = 1.0) -> Wave:
    """A recording, `speed` times as fast (pitch moves with it)."""
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return resample(wave.mean(1), rate, speed)


def resample(wave: Wave, rate: int, speed: float = 1.0) -> Wave:
    """From `rate` Hz to 16 kHz, `speed` times as fast."""
    ratio = Fraction(RATE, rate) / Fraction(speed).limit_denominator(20)
    from scipy.signal import resample_poly  # slow to import, so only where rates differ

    return resample_poly(wave, ratio.numerator, ratio.denominator).astype(np.float32) if ratio != 1 else wave


LONGEST = 30 * RATE - 800
"""Samples that a joined clip may have: the encoder's window, less a little."""


def join(waves: list[Wave], rng: np.random.Generator, longest_pause: float = 0.45) -> tuple[Wave, int]:
    """Recordings one after the other with pauses of 0.04 s up to `longest_pause` s, each at a level of its own.

    Returns:
        The sound, of at most `LONGEST` samples, and how many of the recordings are in it. None is cut: those that no
        longer fit are left out, so that a reference never names what cannot be heard.
    """
    parts: list[Wave] = [np.zeros(int(RATE * rng.uniform(0.05, 0.4)), np.float32)]
    length, heard = len(parts[0]), 0
    for wave in waves:
        loud = wave / max(float(np.abs(wave).max()), 1e-4) * rng.uniform(0.45, 0.9)
        pause = np.zeros(int(RATE * rng.uniform(0.04, longest_pause)), np.float32)
        length += len(wave) + len(pause)
        if length > LONGEST:
            break
        parts += [loud.astype(np.float32), pause]
        heard += 1
    return np.concatenate(parts), heard


def disturb(wave: Wave, rng: np.random.Generator, *, mild: bool = False) -> Wave:
    """A new level and, mostly, white or pink noise at 15 to 40 dB (`mild`: 25 to 40 dB)."""
    wave = wave / max(float(np.abs(wave).max()), 1e-4) * rng.uniform(0.4, 0.95)
    if rng.random() < 0.8:
        noise = rng.standard_normal(len(wave))
        if rng.random() < 0.5:
            spectrum = np.fft.rfft(noise)
            noise = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), len(wave))
        ratio = rng.uniform(25 if mild else 15, 40)
        power = float(np.mean(wave**2)) / max(float(np.mean(noise**2)), 1e-12) / 10 ** (ratio / 10)
        wave = wave + noise * np.sqrt(power)
    return np.clip(wave, -1, 1).astype(np.float32)
