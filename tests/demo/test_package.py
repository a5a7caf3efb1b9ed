"""The files that ship: sizes, the manifest, the prompt, and that importing stays light."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import soundfile

from fastadasp.demo import data_path, model_path, prompts

MB = 1_000_000


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data_path() / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def test_model_files_are_small() -> None:
    sizes = [path.stat().st_size for path in model_path().iterdir()]
    assert sum(sizes) <= 40 * MB
    assert max(sizes) <= 16 * MB


def test_test_set_is_small_and_licensed() -> None:
    assert sum(path.stat().st_size for path in data_path().rglob("*") if path.is_file()) <= 15 * MB
    text = (data_path() / "LICENSES.md").read_text(encoding="utf-8")
    for licence in ("CC BY-SA 4.0", "CC0", "CC BY 4.0", "Apache 2.0"):
        assert licence in text


def test_manifest() -> None:
    rows = lines()
    assert len({row["id"] for row in rows}) == len(rows)
    clips: dict[str, set[str]] = {}
    for row in rows:
        assert {"duration", "reference", "speaker", "seen_speaker", "source"} <= row.keys()
        clips.setdefault(row["task"], set()).add(row["audio_filepath"])
    assert set(clips) == set(prompts.INSTRUCTIONS) | {"sqa"}
    assert all(len(files) >= 60 for files in clips.values())
    assert clips["asr"] == clips["st"]
    assert {row["question"] for row in rows if row["task"] == "sqa"} <= {
        asked[0] for asked in prompts.QUESTIONS.values()
    }
    seen = Counter((row["task"], row["seen_speaker"]) for row in rows)
    assert seen["asr", True] >= 30
    assert seen["asr", False] >= 30
    assert seen["er", False] >= 60
    assert seen["gender", False] >= 60


def test_every_clip_is_there() -> None:
    rows = {row["audio_filepath"]: row for row in lines()}
    assert {f"audio/{path.name}" for path in (data_path() / "audio").iterdir()} == set(rows)
    for name, row in rows.items():
        info = soundfile.info(data_path() / name)
        assert (info.samplerate, info.channels) == (16_000, 1)
        assert info.duration == pytest.approx(row["duration"], abs=0.03)
        assert info.duration <= 30


def test_the_first_lines_are_a_mix() -> None:
    for task in ("asr", "er", "sqa", "gender"):
        first = [row for row in lines() if row["task"] == task][:16]
        assert len({row["reference"] for row in first}) > 1
        assert len({row["speaker"] for row in first}) > 1 or task == "sqa"
    assert {row["seen_speaker"] for row in lines() if row["task"] == "asr"} == {True, False}


def test_importing_the_package_and_prompts_is_light() -> None:
    code = "import sys, fastadasp.demo, fastadasp.demo.prompts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["train", "testset"])
def test_wrong_data_folder(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"tools.demo.{module}", "--data", str(tmp_path / "nowhere"), "--out"]
    root = Path(__file__).parents[2]
    done = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_file_is_installed() -> None:
    """pyproject.toml lists packages and their data by name; an editable installation would not show what is missing."""
    root = Path(__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {name: root / name.replace(".", "/") for name in settings["packages"] if name.startswith("fastadasp.")}
    folders["fastadasp"] = root / "fastadasp"
    installed = {path for folder in folders.values() for path in folder.glob("*.py")}
    for name, patterns in settings["package-data"].items():
        if name in folders:
            installed |= {path for pattern in patterns for path in folders[name].glob(pattern)}
    there = {path for path in (root / "fastadasp").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert len(there) > 300
    assert there - installed == set()
