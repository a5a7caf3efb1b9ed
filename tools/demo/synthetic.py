"""Synthetic voices for extra training data, where espeak-ng or flite are installed. Never used for testing."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tools.demo.audio import DIGITS, Wave, read

_ESPEAK = [
    f"{accent}+{variant}"
    for accent, variant in itertools.product(
        ("en-us", "en-gb", "en-gb-scotland"), ("m1", "m3", "m5", "m7", "f1", "f2", "f4")
    )
]
_FLITE = ("awb", "kal16", "rms", "slt")

_OPENINGS = ("can i have", "i'd like", "i want", "please get me", "could i get", "give me", "make me", "i'll have", "")
_ENDINGS = ("please", "", "", "thanks")


def voices() -> list[tuple[str, str]]:
    """(program, voice) of every synthetic voice at hand; empty where no program is installed."""
    found = [("espeak-ng", voice) for voice in _ESPEAK] if shutil.which("espeak-ng") else []
    return found + ([("flite", voice) for voice in _FLITE] if shutil.which("flite") else [])


def speak(voice: tuple[str, str], text: str, speed: float = 1.0) -> Wave:
    """`text` in a synthetic voice, 16 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        program, name = voice
        command = [program, "-v", name, "-w", str(path), text]
        if program == "flite":
            command = [program, "-voice", name, "-o", str(path), "-t", text]
        subprocess.run(command, check=True, capture_output=True)
        wave = read.__wrapped__(path, speed)
    loud = np.flatnonzero(np.abs(wave) > 0.01)
    return wave[loud[0] : loud[-1] + 1] if len(loud) else wave


def spoken_digits() -> dict[str, list[Wave]]:
    """Ten digits of every synthetic voice, by voice."""
    return {f"{p}:{v}": [speak((p, v), word) for word in DIGITS] for p, v in voices()}


def spoken_orders(
    slots: dict[str, list[str]], count: int, rng: np.random.Generator
) -> Iterator[tuple[Wave, dict[str, Any]]]:
    """Coffee orders with random slots, in random voices and speeds: (sound, slots)."""
    speakers = voices()
    for _ in range(count if speakers else 0):
        chosen = {
            name: str(rng.choice(values))
            for name, values in slots.items()
            if name == "coffeeDrink" or rng.random() < 0.42
        }
        before = [chosen[name] for name in ("size", "numberOfShots", "roast") if name in chosen]
        rng.shuffle(before)
        after = [chosen[name] for name in ("milkAmount", "sugarAmount") if name in chosen]
        rng.shuffle(after)
        tail = f"with {' and '.join(after)}" if after else ""
        words = [str(rng.choice(_OPENINGS)), "a", *before, chosen["coffeeDrink"], tail, str(rng.choice(_ENDINGS))]
        voice = speakers[int(rng.integers(len(speakers)))]
        yield speak(voice, " ".join(w for w in words if w), float(rng.choice([0.9, 1.0, 1.1]))), chosen
