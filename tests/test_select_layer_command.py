"""The command select-layer: what it prints, draws, sweeps and refuses."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command import run

pytestmark = pytest.mark.usefixtures("own_cache")


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", "from fastadasp.cli.app import main; main()", "select-layer", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, timeout=300, env=dict(os.environ))


def test_the_command_prints_and_draws_the_curve(tmp_path: Path) -> None:
    result = command("--task", "er", "--clips", "4", "--plot", "curve.svg", "--output", "curve.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "er, weighted, flops=0.3: start at layer" in result.stdout
    assert "left out: cannot meet the budget" in result.stdout
    assert "\x1b" not in result.stdout
    assert (tmp_path / "curve.svg").read_text().lstrip().startswith("<?xml")
    (record,) = json.loads((tmp_path / "curve.json").read_text())
    assert len(record["clips"]) == 4
    assert list((tmp_path / "cache" / "layers").iterdir())


def test_the_command_sweeps(tmp_path: Path) -> None:
    given = ["--task", "er", "--clips", "4", "--sweep", "--limit", "3", "--vary", "k=2,3", "--plot", "sweep.png"]
    result = command(*given, "--budget", "flops=0.45", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("rank correlation", "against full", "within 1 point", "k=2", "k=3"):
        assert words in result.stdout
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_runs_on_none_of_the_clips_that_a_layer_is_chosen_on() -> None:
    from fastadasp.cli.select_layer import Request, _outcome_clips
    from fastadasp.errors import RunError
    from fastadasp.experiments.axes import find_task

    task = find_task("er")
    seen = task.calibration(16)
    for part, count in (("choosing", 8), ("reporting", 63)):
        request = Request(["er"], ["weighted"], ["flops=0.3"], "transfer-entropy", "model", 16, None, part=part)
        found = _outcome_clips(request, task, seen)
        assert len(found) == count
        assert not {one.audio for one in found} & {one.audio for one in seen}
    few = Request(["er"], ["weighted"], ["flops=0.3"], "transfer-entropy", "model", 16, 5, part="choosing")
    assert len(_outcome_clips(few, task, seen)) == 5
    with pytest.raises(RunError, match="all 24 clips of er are those that the layer is chosen on; --clips takes fewer"):
        _outcome_clips(replace(few, limit=None), task, task.calibration(24))


def test_the_command_asks_another_prompt(tmp_path: Path) -> None:
    given = ("--task", "er", "--clips", "4", "--output", "out.json")
    code, told = in_process(tmp_path, *given)
    assert (code, "is none of the questions" in told) == (0, False)
    usual = json.loads((tmp_path / "out.json").read_text())[0]["choice"]["losses"]
    code, told = in_process(tmp_path, *given, "--prompt", "How do they feel?")
    assert (code, "task 'er': 'How do they feel?' is none of the questions" in told) == (0, True)
    assert json.loads((tmp_path / "out.json").read_text())[0]["choice"]["losses"] != usual


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "eer"], "Did you mean 'er'"),
        (["--task", "er", "--selector", "fixed"], "needs no calibration"),
        (["--task", "er", "--clips", "0"], "at least 1"),
        (["--task", "er", "--plot", "curve.pdf"], ".png or .svg"),
        (["--task", "er", "--vary", "k=3"], "needs --sweep"),
        (["--task", "er", "--part", "choosing"], "needs --sweep"),
        (["--task", "er", "--limit", "3"], "needs --sweep"),
        (["--task", "er", "--output", "."], "is a folder"),
        (["--task", "er", "--sweep", "--vary", "k"], "parameter=value"),
        (["--task", "er", "--sweep", "--vary", "k=3,abc"], "abc"),
        (["--task", "er", "--sweep", "--vary", "flops=0.1,0.3"], "compared at one budget"),
        (["--task", "er", "--sweep", "--vary", "layer=1,2"], "what a selector chooses"),
        (["--task", "er", "--budget", "flops=1.2"], "above 0 and below 1"),
        (["--task", "er", "--set", "layers.kk=3"], "unknown parameter"),
        (["--task", "er", "--model", "nowhere/at/all"], "no model folder"),
    ],
)
def test_the_command_refuses_wrong_input(arguments: list[str], words: str, tmp_path: Path) -> None:
    code, told = in_process(tmp_path, *arguments)
    assert code == 2
    assert words in told
    assert "Traceback" not in told


def in_process(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of the command, without the start of another process."""
    with contextlib.chdir(folder):
        return run("select-layer", *arguments)
