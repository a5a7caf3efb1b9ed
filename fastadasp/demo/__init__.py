"""The embedded model: a small multitask speech language model and real recordings to test it on."""

from __future__ import annotations

from pathlib import Path


def model_path() -> Path:
    """Folder of the embedded model; `from_pretrained` reads it offline."""
    return Path(__file__).parent / "model"


def data_path() -> Path:
    """Folder of the packaged test set: ``manifest.jsonl`` and ``audio/``."""
    return Path(__file__).parent / "data"
