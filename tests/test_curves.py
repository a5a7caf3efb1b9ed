"""The tool that measures what the curves lack: what it runs, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fastadasp import RunError
from tools import curves, running


def test_each_missing_point_is_run_once() -> None:
    keys = curves.wanted()
    assert len(set(keys)) == len(keys)
    assert {budget for name, _, budget in keys if name == "h2o"} == {f"kv={f}" for f in curves.FRACTIONS}
    assert {budget for name, _, budget in keys if name == "tome"} == {f"flops={f}" for f in curves.FRACTIONS}
    lacking = [key for key in keys if key not in curves.known()]
    run = [
        (name, task, b) for (task, budgets), names in curves.groups(lacking).items() for name in names for b in budgets
    ]
    assert sorted(run) == sorted(lacking)


def test_curves_of_other_weights_are_not_mixed(tmp_path: Path) -> None:
    def folder(name: str, value: str) -> Path:
        cell = {"strategy": "full", "task": "asr-72", "error": None, "metrics": {"wer": float(value), "no_answer": 0.0}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.jsonl").write_text(json.dumps(cell) + "\n")
        return tmp_path / name

    before = curves.known()["full", "asr", ""]
    curves.check_full([folder("same", before)])
    with pytest.raises(RunError, match="other weights; --anew measures all curves"):
        curves.check_full([folder("other", "99.9")])


def test_runs_without_what_is_compared_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match=r"results\.jsonl cannot be read: No such file or directory"):
        curves.check_full([tmp_path])
    cell = {"strategy": "full", "task": "asr-72", "error": None, "metrics": {"bleu": 1.0}}
    (tmp_path / "results.jsonl").write_text(json.dumps(cell) + "\n")
    with pytest.raises(RunError, match=r"results\.jsonl has no value of the full model on asr \(wer or accuracy\)"):
        curves.check_full([tmp_path])
    (tmp_path / "results.jsonl").write_text(json.dumps({**cell, "task": "new-task"}) + "\n")
    with pytest.raises(RunError, match=r"curves\.csv has no value of the full model on new"):
        curves.check_full([tmp_path])
    monkeypatch.setattr(curves, "FIGURES", tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"curves\.csv cannot be read"):
        curves.known()

    def missing() -> None:
        (tmp_path / "gone.txt").read_text()

    with pytest.raises(SystemExit) as stop:
        running.run(missing)  # type: ignore[arg-type]
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'gone.txt'}: No such file or directory\n"


def test_the_task_of_the_earlier_clips(tmp_path: Path) -> None:
    from fastadasp.experiments.axes import find_task

    assert len(find_task(curves.task_files(tmp_path)["er"]).examples()) == 87


def test_a_plan_runs_nothing(tmp_path: Path) -> None:
    told = CliRunner().invoke(curves.app, [str(tmp_path / "out"), "--plan", "--anew", "--strategies", "h2o"])
    assert "10 of 10 points" in told.output
    assert not (tmp_path / "out").exists()
