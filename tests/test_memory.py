"""Memory that runs out before the first cell is one sentence, and no reason to stop where a cell may still run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command import run, run_whole

import fastadasp
from fastadasp import RunError
from fastadasp.cli import app
from fastadasp.demo import model_path
from fastadasp.experiments.axes import read_tasks
from fastadasp.inference import fit, runner
from fastadasp.inference.load import load_model
from fastadasp.selection import select

FEW = ("--tasks", "er", "--strategies", "weighted", "--budgets", "0.5", "--limit", "1")


def full(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has more to say.")


def test_a_batch_that_does_not_fit_leaves_the_run_without_a_forecast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "seconds_of", full)
    unknown = "how long the cells take is not known: memory runs out with 1 clip of task 'er' at a time"
    code, told = run("compare", *FEW, "--output", str(tmp_path / "run"))
    assert (code, unknown in told) == (0, True), told
    code, out, told = run_whole("ablate", *FEW, "--store", str(tmp_path / "store"), "--dry-run")
    assert (code, unknown in told, "2 cells, 0 done, 2 to do" in out) == (0, True, True), told


def test_not_even_one_clip_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "clip_bytes", full)
    with pytest.raises(RunError, match="not even one clip fits into the GPU's memory beside the model"):
        fit.find(load_model(str(model_path())), *read_tasks(["er"], 1))


def test_a_model_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(RunError, match="does not fit into the GPU's memory in float32; use a smaller model, --dtype"):
        load_model(str(model_path()))


def test_wherever_a_command_runs_out_of_memory_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "app", full)
    said = "error: memory ran out (CUDA out of memory. Tried to allocate 2.00 GiB.); use fewer clips at a time"
    code, told = run("select-layer")
    assert (code, told.startswith(said), told.count("\n")) == (2, True, 1)
    monkeypatch.setattr(app, "app", lambda _: (_ for _ in ()).throw(RuntimeError("another fault")))
    with pytest.raises(RuntimeError, match="another fault"):
        run("select-layer")


def test_calibration_clips_are_not_encoded_all_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def prepare(loaded: Any, examples: Any, size: int, progress: Any) -> Any:
        raise Seen(f"{len(examples)} by {size}")

    monkeypatch.setattr(select, "prepare", prepare)
    task = fastadasp.get_registry().get("task", "er")
    strategy = fastadasp.load_strategy("fastadasp-sparse")
    with pytest.raises(Seen, match="16 by 12"):
        select.select_layer(load_model(str(model_path())), strategy, task.examples(16), cached=False)
