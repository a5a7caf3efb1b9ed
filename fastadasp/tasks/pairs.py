"""Two recordings as one: the first, half a second of silence, the second."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from fastadasp.audio import keep_recording, read_audio
from fastadasp.files import cache_folder

SILENCE = 0.5
"""Seconds between them."""
RATE = 16_000


def join(first: Path, second: Path) -> Path:
    """A recording of both, 16 kHz mono, in the cache, named after their content.

    Raises:
        DataError: one of them cannot be read, or the cache cannot be written.
    """
    sounds = [read_audio(path, RATE) for path in (first, second)]
    digest = hashlib.sha256(b"|".join(sound.tobytes() for sound in sounds)).hexdigest()[:32]
    file = cache_folder() / "recordings" / f"{digest}.flac"
    if not file.exists():
        keep_recording(file, np.concatenate([sounds[0], np.zeros(int(SILENCE * RATE), np.float32), sounds[1]]), RATE)
    return file
