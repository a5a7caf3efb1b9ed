"""Who is trained on and who is not: recordings of the data folders, split by speaker where speakers are known."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastadasp.errors import DataError

HELD_OUT_DIGIT_SPEAKERS = frozenset({"jackson"})
HELD_OUT_EMOTION_SPEAKERS = frozenset({"08", "10"})
EMODB_GENDER = {"03": "M", "08": "F", "09": "F", "10": "M", "11": "M", "12": "M", "13": "F", "14": "F"}
_TEST_VOICES = 64
_TEST_ORDERS = 64
_TEST_EMOTION_SEEN = 24
FOLDERS = ("digits", "emotion", "orders", "voices")


@dataclass(frozen=True)
class Recording:
    """One clip of a data folder. `test` clips are never trained on; `seen` says whether the speaker's others are."""

    folder: str
    path: Path
    speaker: str
    test: bool
    seen: bool
    labels: dict[str, Any] = field(default_factory=dict)


def fixed_order(text: str) -> str:
    return hashlib.sha256(f"fastadasp demo split {text}".encode()).hexdigest()


def _rows(folder: Path) -> list[dict[str, Any]]:
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        needed = ", ".join(FOLDERS)
        raise DataError(f"{folder.parent} has no {folder.name}/manifest.jsonl; it needs the folders {needed}")
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]


def _chosen(rows: list[dict[str, Any]], count: int) -> set[str]:
    """The `count` rows that a fixed hash of their path puts first."""
    return set(sorted((row["audio_filepath"] for row in rows), key=fixed_order)[:count])


def load_recordings(data: Path) -> list[Recording]:
    """Every recording below `data`, with its split. Raises DataError where a folder is missing."""
    out = []
    for row in _rows(data / "digits"):
        unseen = row["speaker"] in HELD_OUT_DIGIT_SPEAKERS
        out.append(_recording(data, "digits", row, row["speaker"], unseen or row["split"] == "test", not unseen))
    rows = _rows(data / "emotion")
    spared = _chosen([row for row in rows if row["speaker"] not in HELD_OUT_EMOTION_SPEAKERS], _TEST_EMOTION_SEEN)
    for row in rows:
        unseen = row["speaker"] in HELD_OUT_EMOTION_SPEAKERS
        test = unseen or row["audio_filepath"] in spared
        out.append(_recording(data, "emotion", row, row["speaker"], test, not unseen))
    rows = _rows(data / "orders")
    spared = _chosen(rows, _TEST_ORDERS)
    for row in rows:
        out.append(_recording(data, "orders", row, "unknown", row["audio_filepath"] in spared, True))
    rows = _rows(data / "voices")
    spared = set()
    for gender in "FM":
        spared |= _chosen([row for row in rows if row["gender"] == gender], _TEST_VOICES // 2)
    for row in rows:
        test = row["audio_filepath"] in spared
        out.append(_recording(data, "voices", row, row["speaker"], test, not test))
    return out


def _recording(data: Path, folder: str, row: dict[str, Any], speaker: str, test: bool, seen: bool) -> Recording:
    return Recording(folder, data / folder / row["audio_filepath"], speaker, test, seen, row)
