"""Recordings in memory: what libraries hand around is one sound, and the rest is refused in words."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from fastadasp.errors import DataError, RunError
from fastadasp.samples import Samples, recording_of

RATE = 16_000
SOUND = (0.4 * np.sin(np.arange(1600) / 5)).astype(np.float32)
INTEGERS = (SOUND * 32767).astype(np.int16)


def _encoded() -> bytes:
    kept = io.BytesIO()
    soundfile.write(kept, SOUND, RATE, format="WAV", subtype="FLOAT")
    return kept.getvalue()


class Decoded:
    """As torchcodec gives it."""

    data, sample_rate = torch.from_numpy(SOUND)[None], RATE


class Decoder:
    def get_all_samples(self) -> Decoded:
        return Decoded()


FORMS: dict[str, Any] = {
    "samples": SOUND,
    "float64": SOUND.astype(np.float64),
    "samples, 1": SOUND[:, None],
    "1, samples": SOUND[None],
    "2, samples": np.stack([SOUND, SOUND]),
    "samples, 2": np.stack([SOUND, SOUND], axis=1),
    "int16": INTEGERS,
    "int32": INTEGERS.astype(np.int32) * 65536,
    "uint8": np.round(SOUND * 127 + 128).astype(np.uint8),
    "2, samples, int16": np.stack([INTEGERS, INTEGERS]),
    "tensor": torch.from_numpy(SOUND),
    "tensor with a gradient": torch.from_numpy(SOUND).requires_grad_(),
    "tensor, int16": torch.from_numpy(INTEGERS),
    "bfloat16": torch.from_numpy(SOUND).bfloat16(),
    "1, samples, tensor": torch.from_numpy(SOUND)[None],
    "list": SOUND.tolist(),
    "tuple of floats": tuple(SOUND.tolist()),
    "array and rate": (SOUND, RATE),
    "rate and array": (np.int64(RATE), INTEGERS),
    "dictionary": {"array": SOUND, "sampling_rate": RATE, "path": None},
    "raw": {"raw": SOUND, "sampling_rate": RATE},
    "bytes in a dictionary": {"bytes": _encoded(), "path": "x.wav"},
    "bytes": _encoded(),
    "open file": io.BytesIO(_encoded()),
    "decoded": Decoded(),
    "decoder": Decoder(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_sound(form: str) -> None:
    found = recording_of(FORMS[form], RATE)
    assert isinstance(found, Samples)
    assert found.rate == RATE
    assert found.wave.dtype == np.float32
    assert found.wave == pytest.approx(SOUND, abs=8e-3 if form in ("uint8", "bfloat16") else 1e-4)


def test_paths() -> None:
    assert recording_of("a.wav") == recording_of(Path("a.wav")) == recording_of({"path": "a.wav"}) == Path("a.wav")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "NoneType"),
        (3, "type int"),
        ({}, "nothing"),
        ({"audio": 1}, "'audio'"),
        ([], "empty"),
        (["a", "b"], "list"),
        ([[1.0], [1.0, 2.0]], "list"),
        (np.zeros((2, 3, 4)), r"\(2, 3, 4\)"),
        (np.zeros((100, 100)), "which side"),
        (np.array([True, False]), "ndarray"),
        (np.array([1, 2, 3]), "int64"),
        (np.array([1j, 2]), "ndarray"),
        (np.array([0.0, np.nan], np.float32), "finite"),
        (INTEGERS.astype(np.float32), "divide"),
        (b"no sound", "cannot be read"),
        (io.StringIO("text"), "cannot be read"),
        (object(), "object"),
        ("", "empty"),
    ],
)
def test_the_rest_is_refused_in_words(given: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        recording_of(given, RATE)


@pytest.mark.parametrize("rate", [0, -1, 1.5, "16000", True, float("nan")])
def test_rates(rate: Any) -> None:
    with pytest.raises(RunError, match="sampling rate"):
        recording_of(SOUND, rate)


def test_two_rates_contradict() -> None:
    with pytest.raises(RunError, match=r"8000.*16000"):
        recording_of((SOUND, RATE), 8000)
