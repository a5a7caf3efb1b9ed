"""Worker processes that die, say what cannot be read, or cannot be started: the run goes on, or ends in a sentence."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastadasp import RunError
from fastadasp.demo import model_path
from fastadasp.experiments import process_workers, ray_workers
from fastadasp.experiments.combinations import make_grid
from fastadasp.experiments.executors import count_workers
from fastadasp.experiments.process_workers import ProcessExecutor
from fastadasp.experiments.spec import make_spec
from fastadasp.experiments.study import Options
from fastadasp.experiments.worker import Job, Settings

TWO: dict[str, list[Any]] = {"tasks": ["er"], "strategies": ["weighted"], "budgets": [0.5], "seeds": [0]}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every process that is started from now on."""
    found: list[subprocess.Popen[bytes]] = []

    class Counted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            found.append(self)

    monkeypatch.setattr(process_workers.subprocess, "Popen", Counted)
    return found


@pytest.fixture
def executor(started: list[subprocess.Popen[bytes]]) -> Iterator[ProcessExecutor]:
    made = ProcessExecutor(Settings(str(model_path()), ("er",), "cpu", limit=1), 2, None)
    yield made
    made.close()
    assert all(child.poll() is not None for child in started)


def test_idle_workers_that_die_are_replaced_and_fail_no_cell(executor: ProcessExecutor) -> None:
    executor._idle[1].kill()  # while the other gets ready
    cell = make_grid(make_spec({}, TWO), executor.facts()).points[0].cell
    assert (executor.workers, [one.gone() for one in executor._idle]) == (2, [False, False])
    job = Job("full", None, None, 0, "er", cell)
    executor._idle[-1].kill()  # before it gets a cell
    executor.submit(job)
    executor._idle[0].kill()  # while the other has one
    (done,) = executor.collect()
    assert (done.error, done.cell, executor.workers) == (None, cell, 2)
    assert [one.gone() for one in executor._idle] == [False, False]


def test_a_worker_that_dies_while_it_gets_ready_is_one_sentence(executor: ProcessExecutor) -> None:
    executor._idle[0].kill()
    with pytest.raises(RunError, match="a worker died before its first cell: signal SIGKILL"):
        executor.facts()


def test_an_answer_that_cannot_be_read_ends_the_wait(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def strange(file: Any) -> Any:
        raise AttributeError("there is no class Result")

    monkeypatch.setattr(process_workers.pickle, "load", strange)
    made = ProcessExecutor(Settings(str(model_path()), ("er",), "cpu", limit=1), 1, None)
    try:
        with pytest.raises(RunError, match=r"its answer cannot be read \(AttributeError: there is no class Result\)"):
            made.facts()
    finally:
        made.close()
    assert started[0].poll() is not None


def test_what_a_worker_says_is_wrong_leaves_no_process(executor: ProcessExecutor) -> None:
    executor.facts()
    executor.submit(Job("full", None, None, 0, "er", "another cell"))
    with pytest.raises(RunError, match="would run another cell"):
        executor.collect()  # the fixture sees that closing ends this one, too


def test_workers_that_cannot_all_be_started_leave_none(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = process_workers.subprocess.Popen

    def scarce(*args: Any, **kwargs: Any) -> Any:
        if len(started) == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return real(*args, **kwargs)

    monkeypatch.setattr(process_workers.subprocess, "Popen", scarce)
    with pytest.raises(RunError, match="a worker could not start: Resource temporarily unavailable"):
        ProcessExecutor(Settings(str(model_path()), ("er",), "cpu", limit=1), 3, None)
    assert [child.poll() is not None for child in started] == [True, True]


def test_a_ray_that_is_too_small_is_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    small = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **_: called.append("init"),
        cluster_resources=lambda: {"CPU": 2.0},
        shutdown=lambda: called.append("shutdown"),
    )
    monkeypatch.setattr(ray_workers, "_import_ray", lambda: small)
    with pytest.raises(RunError, match="64 workers need 64 CPUs, but the Ray cluster has 2"):
        ray_workers.RayExecutor(Settings(str(model_path()), ("er",), "cpu"), 64, None, None)
    assert called == ["init", "shutdown"]


def test_how_many_workers_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    how = Options(model="", output=Path(), executor="processes")
    assert count_workers(how, "cpu") == 2
    monkeypatch.setattr(process_workers, "_visible", lambda: ["0", "1", "2"])
    assert [count_workers(replace(how, executor=name), "cuda") for name in ("local", "processes", "ray")] == [1, 3, 2]
    assert count_workers(replace(how, gpus=0.5), "cuda") == 6
