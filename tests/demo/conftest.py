"""Fixtures of the embedded model's tests: a made-up data folder, and the model itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastadasp.demo import model_path
from tools.demo.audio import DIGITS


def _write(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """Manifests like the real data folders', without recordings."""
    data = tmp_path / "data"
    digits = [
        {"audio_filepath": f"audio/{d}_{s}_{i}.flac", "text": word, "digit": d, "speaker": s, "split": split}
        for d, word in enumerate(DIGITS)
        for s in ("george", "jackson", "theo")
        for i, split in enumerate(("test", "train", "train"))
    ]
    feelings = [
        {"audio_filepath": f"audio/{s}a{i:02d}.flac", "duration": 2.0, "emotion": feeling, "speaker": s}
        for s in ("03", "08", "09", "10", "11", "12", "13", "14")
        for i, feeling in enumerate(("angry", "happy", "neutral", "sad") * 3)
    ]
    orders = [
        {
            "audio_filepath": f"audio/{i:08d}-x.ogg",
            "slots": {"coffeeDrink": "latte", "size": "small", "roast": "dark roast"},
        }
        for i in range(90)
    ]
    voices = [
        {"audio_filepath": f"audio/{i}.ogg", "speaker": str(i), "gender": "FM"[i % 2], "duration": 9.0}
        for i in range(90)
    ]
    for name, rows in (("digits", digits), ("emotion", feelings), ("orders", orders), ("voices", voices)):
        _write(data / name, rows)
    return data


@pytest.fixture(scope="session")
def demo_model() -> tuple[Any, Any]:
    """(model, processor) of the embedded model."""
    transformers = pytest.importorskip("transformers")
    model = transformers.Qwen2AudioForConditionalGeneration.from_pretrained(model_path(), local_files_only=True)
    return model.eval(), transformers.AutoProcessor.from_pretrained(model_path(), local_files_only=True)
