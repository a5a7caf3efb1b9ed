"""Where and how a comparison runs: batch sizes found by memory, models spread over devices, worker processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import run

import fastadasp
from fastadasp import RunError
from fastadasp.demo import model_path
from fastadasp.experiments.axes import read_tasks
from fastadasp.experiments.combinations import make_grid
from fastadasp.experiments.process_workers import ProcessExecutor
from fastadasp.experiments.spec import make_spec
from fastadasp.experiments.worker import Job, Settings, Worker
from fastadasp.inference import fit
from fastadasp.inference.load import LoadedModel, load_model

ONE = ("compare", "--tasks", "er", "--strategies", "weighted", "--budgets", "0.5")
TWO: dict[str, list[Any]] = {"tasks": ["er"], "strategies": ["weighted"], "budgets": [0.5], "seeds": [0]}


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(str(model_path()))


def about(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text()))


def test_live_bytes_are_those_of_tensors_that_live_at_once() -> None:
    weight = torch.ones(100)
    with fit.LiveBytes([weight.untyped_storage()._cdata]) as counted:
        a = weight + 1  # 400 bytes
        b = a * 2  # 800 together
        del a
        c = b.view(10, 10)  # nothing new
        d = c.double()  # 400 + 800
        weight.t()
    assert counted.peak == 1200
    del b, c, d


def test_a_clip_takes_the_same_each_time_and_more_if_it_is_longer(loaded: LoadedModel, tmp_path: Path) -> None:
    import numpy as np
    import soundfile

    from fastadasp import Example

    def clip(seconds: float) -> Example:
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, np.sin(np.arange(int(16000 * seconds))).astype(np.float32) / 9, 16000)
        return Example(str(seconds), path, "Say it.", "")

    short, long = clip(0.5), clip(4)
    assert fit.clip_bytes(loaded, short, 8) == fit.clip_bytes(loaded, short, 8) < fit.clip_bytes(loaded, long, 8)
    assert fit.clip_bytes(loaded, long, 20_000) > 3 * fit.clip_bytes(loaded, long, 8)  # the cache of the answer counts


def test_the_batch_size_follows_the_free_memory(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, examples = read_tasks(["er"], 40)
    clip = fit.find(loaded, tasks, examples).clip

    def size(clips: float, sharers: int = 1) -> int:
        monkeypatch.setattr(fit, "free_bytes", lambda device: int(clips * clip / fit.SHARE) + 10)
        monkeypatch.setattr(fit, "clip_bytes", lambda *_: clip)
        return fit.find(loaded, tasks, examples, sharers).size

    assert [size(n) for n in (1, 2, 3, 7.9, 16, 1000)] == [1, 2, 2, 4, 16, 32]  # 40 clips: no more than 32
    assert size(16, sharers=2) == 8
    assert size(0.6) == 1
    with pytest.raises(RunError, match=r"the longest clip, er-\S+ of task 'er', takes 0\.\d GB of memory, of which"):
        size(0.4)


def test_a_size_that_runs_out_of_memory_is_halved() -> None:
    tried: list[int] = []

    def attempt(most: int) -> Any:
        def run_it(size: int) -> None:
            tried.append(size)
            if size > most:
                raise torch.OutOfMemoryError("no")

        return run_it

    assert (fit.halved(64, attempt(20)), tried) == (16, [64, 32, 16])
    assert fit.halved(8, attempt(8)) == 8
    with pytest.raises(RunError, match="not even one clip fits"):
        fit.halved(4, attempt(0))
    with pytest.raises(ValueError, match="another fault"):
        fit.halved(4, lambda size: (_ for _ in ()).throw(ValueError("another fault")))


def test_who_shares_memory() -> None:
    assert fit.sharers(4, None, "cpu") == 4
    assert [fit.sharers(4, gpus, "cuda") for gpus in (None, 1, 0.5, 0.3, 2)] == [1, 1, 2, 4, 1]
    assert fit.free_bytes("cpu") > 0


def test_a_run_keeps_the_batch_size_that_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    command = (*ONE, "--limit", "5", "--batch-size", "auto", "--output", str(out))
    code, told = run(*command)
    assert code == 0, told
    assert "batch size 4, found by memory: the longest clip takes " in told
    assert (about(out)["batch_size"], about(out)["arguments"]["batch_size"]) == (4, "auto")
    assert {json.loads(line)["efficiency"]["batch_size"] for line in (out / "results.jsonl").open()} == {4}
    monkeypatch.setattr(fit, "find", lambda *_: pytest.fail("it was found before"))
    code, told = run(*command)
    assert (code, "all 2 cells are done" in told) == (0, True), told
    plain = tmp_path / "plain"
    assert run(*ONE, "--limit", "5", "--batch-size", "4", "--output", str(plain))[0] == 0
    assert (plain / "results.jsonl").read_bytes() == (out / "results.jsonl").read_bytes()


def test_batch_sizes_and_executors_that_cannot_be(tmp_path: Path) -> None:
    for options, message in (
        (["--batch-size", "aut"], "batch size is a number of clips, or auto, not 'aut'"),
        (["--batch-size", "0"], "batch size is at least 1, not 0"),
        (
            ["--device-map", "auto", "--device", "cpu"],
            "device map auto chooses devices by itself; leave out the device",
        ),
        (["--device-map", "balanced"], "device map is auto, not 'balanced'"),
        (
            ["--executor", "process"],
            "executor is one of local, processes, ray, not 'process'. Did you mean 'processes'?",
        ),
        (["--workers", "2"], "--workers needs --executor processes (on this machine) or --executor ray (on a cluster)"),
        (["--executor", "processes", "--address", "a:1"], "--address is that of a Ray cluster"),
        (["--executor", "processes", "--workers", "0"], "--workers is at least 1, not 0"),
        (["--executor", "processes", "--gpus-per-worker", "-1"], "--gpus-per-worker is at least 0, not -1"),
        (["--executor", "processes", "--gpus-per-worker", "nan"], "--gpus-per-worker is at least 0, not nan"),
        (["--executor", "processes", "--gpus-per-worker", "inf"], "--gpus-per-worker is at least 0, not inf"),
        (["--executor", "processes", "--device", "cpu", "--gpus-per-worker", "1"], "2 workers need 2 GPUs, but this"),
    ):
        code, told = run(*ONE, "--limit", "1", *options, "--output", str(tmp_path / "out"))
        assert (code, message in told) == (2, True), (options, told)
    assert not (tmp_path / "out").exists()


def test_a_device_map_needs_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(RunError, match=r"needs the package accelerate: pip install 'fastadasp\[accelerate\]'"):
        load_model(str(model_path()), device_map="auto")


def test_a_spread_model_gives_the_same_answers(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    given: dict[str, Any] = {"tasks": ["er"], "budgets": [0.5], "limit": 3}
    plain = fastadasp.compare(["weighted"], output=tmp_path / "plain", **given)
    spread = fastadasp.compare(["weighted"], output=tmp_path / "spread", **given, device_map="auto")
    for a, b in zip(plain.rows(), spread.rows(), strict=True):
        assert (a["strategy"], a["value"], a["flops_removed"]) == (
            b["strategy"],
            b["value"],
            b["flops_removed"],
        )
    assert about(tmp_path / "spread")["device_map"]
    assert about(tmp_path / "plain")["device_map"] is None


def test_an_outline_has_names_and_no_weights() -> None:
    whole, outline = load_model(str(model_path())), load_model(str(model_path()), outline=True)
    assert {p.device.type for p in outline.model.parameters()} == {"meta"}
    assert outline.weights_hash == whole.weights_hash
    worker = Worker(Settings(str(model_path()), ("er",), limit=1), loaded=outline)
    from fastadasp.inference.clips import prompt_text

    clip = worker.read[1]["er"][0]
    assert prompt_text(outline, clip) == prompt_text(whole, clip)


def test_a_process_that_dies_fails_its_cell_and_is_replaced() -> None:
    executor = ProcessExecutor(Settings(str(model_path()), ("er",), "cpu", limit=1), 1, None)
    try:
        cell = make_grid(make_spec({}, TWO), executor.facts()).points[0].cell
        job = Job("full", None, None, 0, "er", cell)
        (process,) = executor._idle
        executor.submit(job)
        process.kill()
        (lost,) = executor.collect()
        assert lost.error == "the worker died: signal SIGKILL"
        executor.submit(job)
        (done,) = executor.collect()
        assert (done.error, done.cell) == (None, cell)
        assert executor.forecast({"er": 3}).seconds > 0
    finally:
        executor.close()


def test_what_is_wrong_in_a_process_is_one_sentence(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in model_path().iterdir():
        if file.is_file():
            (model / file.name).write_bytes(file.read_bytes())
    for weights in model.glob("*.safetensors"):
        weights.write_bytes(b"broken")
    code, told = run(*ONE, "--model", str(model), "--limit", "1", "--executor", "processes", "--workers", "1")
    assert (code, told.count("\n"), "error: in a worker: " in told, "cannot be loaded" in told) == (2, 1, True, True)
