"""Recordings in memory, in the forms that libraries hand around, as mono float32 samples with their rate."""

from __future__ import annotations

import io
import numbers
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from fastadasp.errors import DataError, RunError

CHANNELS = 32
"""Most channels of a recording: the side of a table of samples that has no more than these is its channels."""
LOUDEST = 16.0
"""Floats are between -1 and 1; sounds that were amplified go a little beyond, integers as floats far."""
FORMS = (
    "a path, an array or tensor [samples], [samples, channels] or [channels, samples], a list of floats, "
    "(array, rate), a dictionary with 'array' and 'sampling_rate' or with 'bytes', or an open file"
)


@dataclass(frozen=True)
class Samples:
    """Mono float32 [samples] at `rate` Hz; a `rate` of None is not known."""

    wave: NDArray[np.float32]
    rate: int | None


def recording_of(given: Any, rate: int | None = None) -> Path | Samples:
    """What somebody calls a recording: its path, or its samples.

    Args:
        given: one of `FORMS`. Integers are scaled by their type: int16 by 32768, int32 by 2**31, uint8 around 128.
        rate: Hz of the samples, where `given` does not say; None if nobody says.

    Raises:
        DataError: it is none of these, or its samples cannot be a sound.
        RunError: `rate` is no rate, or contradicts what `given` says.
    """
    if rate is not None:
        rate = _rate(rate)
    if isinstance(given, str | os.PathLike):
        if not os.fspath(given):
            raise DataError("the path of the recording is empty")
        return Path(given)
    if isinstance(given, Mapping):
        return _from_mapping(given, rate)
    if (
        isinstance(given, tuple)
        and len(given) == 2
        and (isinstance(given[0], _NUMBER) != isinstance(given[1], _NUMBER))
    ):
        said, sound = given if isinstance(given[0], _NUMBER) else given[::-1]  # scipy and gradio put the rate first
        return recording_of(sound, _agreed(said, rate))
    if callable(decode := getattr(given, "get_all_samples", None)):  # torchcodec's decoder, in datasets since 4.0
        given = decode()
    if hasattr(given, "sample_rate") and hasattr(given, "data") and not isinstance(given, np.ndarray):
        return Samples(_mono(given.data), _agreed(given.sample_rate, rate))
    if isinstance(given, bytes | bytearray | memoryview):
        given = io.BytesIO(given)
    if hasattr(given, "read"):
        return _from_file(given, rate)
    return Samples(_mono(given), rate)


_NUMBER = (numbers.Real, np.number)


def _from_mapping(given: Mapping[str, Any], rate: int | None) -> Path | Samples:
    said = given.get("sampling_rate", given.get("sample_rate"))
    agreed = rate if said is None else _agreed(said, rate)
    for key in ("array", "raw", "samples"):
        if given.get(key) is not None:
            return Samples(_mono(given[key]), agreed)
    if given.get("bytes") is not None:
        return recording_of(bytes(given["bytes"]), agreed)
    if given.get("path"):
        return recording_of(given["path"])
    raise DataError(f"a dictionary with {', '.join(map(repr, given)) or 'nothing'} is no recording; expected {FORMS}")


def _from_file(file: Any, rate: int | None) -> Samples:
    try:
        content = file.read()
        if not isinstance(content, bytes | bytearray):
            raise TypeError("it was opened as text; open it with mode 'rb'")
        wave, said = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError, MemoryError) as error:
        raise DataError(f"the recording in memory cannot be read as audio: {error}") from None
    return Samples(_mono(wave), _agreed(said, rate))


def _rate(rate: Any) -> int:
    if isinstance(rate, bool) or not isinstance(rate, _NUMBER) or not float(rate).is_integer() or rate < 1:
        raise RunError(f"sampling rate {rate!r}: at least 1 Hz, in whole numbers")
    return int(float(rate))


def _agreed(said: Any, rate: int | None) -> int:
    """The rate that a recording says, unless somebody said another. Raises RunError."""
    own = _rate(said)
    if rate is not None and rate != own:
        raise RunError(f"sampling rate {rate}: the recording itself says {own} Hz")
    return own


def _mono(given: Any) -> NDArray[np.float32]:
    """An array, a tensor or a list as mono float32 [samples]. Raises DataError."""
    array = _scaled(_array(given))
    if array.ndim == 2:
        rows, columns = array.shape
        if min(rows, columns) > CHANNELS or (rows == columns and rows > 1):
            raise DataError(
                f"samples of shape {array.shape}: which side is the channels? Give [samples], or at most "
                f"{CHANNELS} channels"
            )
        array = array.mean(axis=0 if rows < columns else 1)
    if array.ndim != 1:
        raise DataError(
            f"samples of shape {array.shape} are no recording; expected [samples], [samples, channels] or "
            "[channels, samples]"
        )
    if not len(array):
        raise DataError("no recording: it is empty, without samples")
    if not np.isfinite(array).all():
        raise DataError("the samples hold values that are not finite")
    if (peak := float(np.abs(array).max())) > LOUDEST:
        raise DataError(
            f"the samples reach {peak:g}; floats are between -1 and 1. If these are integers written as floats, divide "
            "them, e.g. by 32768 for 16 bits"
        )
    return np.ascontiguousarray(array, dtype=np.float32)


def _array(given: Any) -> NDArray[Any]:
    if callable(getattr(given, "detach", None)):  # a tensor of torch, without importing torch
        given = given.detach().cpu()
        given = (given.float() if given.is_floating_point() else given).numpy()
    try:
        array = np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"an object of type {type(given).__name__} is no recording ({error}); expected {FORMS}"
        ) from None
    if array.dtype.kind not in "iuf" or array.ndim == 0:
        raise DataError(f"an object of type {type(given).__name__} is no recording; expected {FORMS}")
    return array


def _scaled(array: NDArray[Any]) -> NDArray[Any]:
    """Samples as floats between -1 and 1."""
    if array.dtype.kind == "f":
        return array.astype(np.float32) if array.dtype != np.float32 else array
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if array.dtype in (np.int16, np.int32):
        return array.astype(np.float32) / -float(np.iinfo(array.dtype).min)
    raise DataError(
        f"samples of type {array.dtype} have no usual scale; give int16, int32, uint8, or floats from -1 to 1"
    )
