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


def stretch(wave: Wave, speed: float) -> Wave:
    """`speed` times as fast (0.7 to 1.6, to a tenth) at the same pitch."""
    from fastadasp.demo.numbers import faster

    whole = (np.clip(wave, -1, 1) * 32767).astype(np.int64)
    return (faster(whole, round(10 * speed), RATE) / 32767).astype(np.float32)


def room(wave: Wave, rng: np.random.Generator) -> Wave:
    """As in a room: an echo of noise that dies away by 60 dB in 0.1 to 0.6 s, 5 to 20 dB below the direct sound."""
    seconds = rng.uniform(0.1, 0.6)
    steps = np.arange(int(seconds * RATE))
    echo = rng.standard_normal(len(steps)) * 10 ** (-3 * steps / len(steps))
    echo[: int(0.002 * RATE)] = 0
    echo *= 10 ** (-rng.uniform(5, 20) / 20) / max(float(np.sqrt((echo**2).sum())), 1e-6)
    echo[0] = 1.0
    from scipy.signal import fftconvolve

    return np.asarray(fftconvolve(wave, echo)[: len(wave)], dtype=np.float32)


def noise(length: int, rng: np.random.Generator) -> Wave:
    """White, pink or humming noise."""
    sound = rng.standard_normal(length)
    kind = rng.integers(3)
    if kind:
        spectrum = np.fft.rfft(sound)
        steps = np.arange(1, len(spectrum) + 1)
        sound = np.fft.irfft(spectrum / (np.sqrt(steps) if kind == 1 else steps**0.8), length)
    return (sound / max(float(np.sqrt(np.mean(sound**2))), 1e-9)).astype(np.float32)


def augment(wave: Wave, rng: np.random.Generator) -> Wave:
    """For training: a room now and then, noise of 0 to 20 dB or little of it, and a new level."""
    if rng.random() < 0.3:
        wave = room(wave, rng)
    draw = rng.random()
    if draw < 0.85:
        ratio = rng.uniform(0, 20) if draw < 0.5 else rng.uniform(20, 40)
        power = max(float(np.mean(wave**2)), 1e-10) / 10 ** (ratio / 10)
        wave = wave + noise(len(wave), rng) * np.float32(np.sqrt(power))
    loud = wave / max(float(np.abs(wave).max()), 1e-4) * rng.uniform(0.1, 0.95)
    return np.clip(loud, -1, 1).astype(np.float32)


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
