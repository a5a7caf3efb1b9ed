"""Two recordings as one: the first, half a second of silence, the second."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import soundfile

from fastadasp.audio import read_audio
from fastadasp.errors import DataError
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
    folder = cache_folder() / "recordings"
    file = folder / f"{digest}-{first.stem}-{second.stem}.flac"[-120:]
    if not file.exists():
        whole = np.concatenate([sounds[0], np.zeros(int(SILENCE * RATE), np.float32), sounds[1]])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part = file.with_name(f"{digest}.part.flac")
            soundfile.write(part, whole, RATE, subtype="PCM_16")
            part.replace(file)
        except (OSError, soundfile.SoundFileError) as error:
            raise DataError(f"recordings cannot be kept in {folder}: {error}; set FASTADASP_CACHE") from None
    return file
