"""Tables in narrow terminals, runs that a scheduler ends, and runs in which everything fails for one reason."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastadasp.cli.terminal import interruptible, split
from fastadasp.demo import data_path

COMPARE = [sys.executable, "-m", "fastadasp", "compare", "--tasks", "er", "--limit", "4", "--budgets", "0.5"]


def in_terminal(command: list[str], columns: int, *, bars: bool = False) -> str:
    """What a command prints to a terminal of so many columns; with `bars` also what it says there on its way."""
    ours, theirs = pty.openpty()
    said = theirs if bars else subprocess.DEVNULL
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen(command, stdout=theirs, stderr=said, env=environment) as process:
        os.close(theirs)
        out = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:
                break
            if not piece:
                break
            out += piece
        assert process.wait(120) == 0
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.decode()).replace("\r", "")


def test_a_table_fits_a_terminal_of_80_columns(tmp_path: Path) -> None:
    command = [*COMPARE, "--strategies", "uniform"]
    narrow = in_terminal([*command, "--output", str(tmp_path / "a")], 80)
    assert max(len(line) for line in narrow.splitlines() if not line.startswith("results: ")) <= 80
    assert "left out to fit 80 columns: KV bytes" in narrow
    assert re.search(r"strategy +budget +encoder +prefill +decode +whole +saved", narrow)
    assert "FLOPs removed" in narrow
    assert "too few clips" in " ".join(narrow.split())
    wide = in_terminal([*command, "--wide", "--output", str(tmp_path / "b")], 80)
    assert "left out" not in wide
    assert "KV bytes" in wide


def test_what_takes_time_has_a_bar_from_its_beginning(tmp_path: Path) -> None:
    clip = next(data_path().glob("audio/number-*.ogg"))
    command = [sys.executable, "-m", "fastadasp", "export-embeddings", str(clip), "--output"]
    shown = in_terminal([*command, str(tmp_path / "clip.safetensors")], 80, bars=True)
    assert re.search(r"loading the model +\u2501", shown)
    assert re.search(r"encoding +\u2501", shown)
    assert "1 recordings" in shown


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_scheduler_ends_a_run_and_what_is_done_stays(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [*COMPARE[:-4], "--limit", "40", "--strategies", "all", "--output", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        results, until = folder / "results.jsonl", time.time() + 120
        while not (results.is_file() and results.read_text().count("\n") >= 2):
            assert process.poll() is None
            assert time.time() < until
            time.sleep(0.05)
        process.send_signal(getattr(signal, name))
        printed, complaints = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert "cancelled" in complaints
    assert "full" in printed
    assert json.loads((folder / "run.json").read_text())["status"] == "cancelled"
    assert (folder / "table.md").is_file()


def test_a_hangup_that_nohup_ignores_ends_no_run() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert callable(signal.getsignal(signal.SIGTERM))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_commas_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    (tmp_path / "a,b" / "c,d.csv").touch()
    assert split("asr,transcription=a,b/c,d.csv,er") == ["asr", "transcription=a,b/c,d.csv", "er"]
    assert split("weighted, prune,,") == ["weighted", "prune"]
    assert split("x" * 100_000) == ["x" * 100_000]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-u", "-m", "fastadasp", "tasks", "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.strip() == "error: No space left on device"


BROKEN = """
import fastadasp

class Broken(fastadasp.Scorer):
    name = "broken"
    gives = ("importance",)

    def importance(self, layer):
        raise ValueError("no scores today")

@fastadasp.hookimpl
def fastadasp_scorers():
    return [Broken]
"""


def test_one_reason_for_all_cells_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "broken_scores.py").write_text(BROKEN)
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fastadasp]\nbroken = broken_scores\n")
    command = [*COMPARE, "--strategies", "prune,random-prune", "--set", "select.name=broken", "--tasks", "er,asr"]
    done = subprocess.run(
        [*command, "--budgets", "0.3,0.5", "--output", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("no scores today") == 1
    assert "stopped after" in done.stderr
    assert "asr" not in (tmp_path / "run" / "results.jsonl").read_text()
