"""Workers that are processes of this machine: one a GPU, or several that share the processors."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any, BinaryIO

from fastadasp.errors import RunError
from fastadasp.experiments.records import Result
from fastadasp.experiments.remote import Answer, Remote, RemoteExecutor, check_workers, lost
from fastadasp.experiments.worker import Job, Settings

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"
PATIENCE = 10.0
"""Seconds in which a process that says no more has to end."""


class ProcessExecutor(RemoteExecutor):
    """Runs each cell in one of `workers` processes, each with a model of its own.

    Args:
        workers: None for one a GPU, or two on a machine without.
        gpus: GPUs of each worker, may be a fraction; None for one where there are any.

    Raises:
        RunError: there are fewer GPUs than the workers need.
    """

    def __init__(self, settings: Settings, workers: int | None, gpus: float | None) -> None:
        count, each, visible = share_out(settings.device, workers, gpus)
        settings = replace(settings, workers=count, gpus=each)
        self._answers: queue.Queue[tuple[_Process, Answer | None]] = queue.Queue()
        super().__init__(settings)
        try:
            for i in range(count):
                self._idle.append(self._start({**_devices(i, each, visible), **_threads(count)}))
        except BaseException:
            self.close()
            raise

    def submit(self, job: Job) -> None:
        process = self._idle.pop()
        if process.gone():  # while it had nothing to do, which is not the fault of this cell
            process = self._start(process.place)
        self._busy[process] = job
        process.ask("run", job)

    def collect(self) -> list[Result]:
        process, answer = self._wait(self._busy)
        job = self._busy.pop(process)
        if answer is None:  # killed, e.g. by the system when memory ran out
            result = lost(job, self.facts(), f"the worker died: {process.last_words()}")
            self._idle.append(self._start(process.place))
            return [result]
        self._idle.append(process)
        result, fault = answer
        if fault is not None:
            raise RunError(fault)
        return [result]

    def close(self) -> None:
        for process in [*self._idle, *self._busy]:
            process.kill()
        self._idle, self._busy = [], {}

    def _start(self, place: Mapping[str, str]) -> _Process:
        """A new process. Raises RunError."""
        try:
            return _Process(self._settings, place, self._answers)
        except OSError as error:
            raise RunError(f"a worker could not start: {error.strerror or error}") from None

    def _wait(self, asked: Container[_Process]) -> tuple[_Process, Answer | None]:
        """The next answer of a process that was asked something, None if it died. Idle ones that died are replaced."""
        while True:
            process, answer = self._answers.get()
            if process in asked:
                return process, answer
            if process in self._idle:
                self._idle[self._idle.index(process)] = self._start(process.place)

    def _ask(self, worker: _Process, what: str, *arguments: Any) -> Any:
        worker.ask(what, *arguments)
        _, answer = self._wait([worker])
        if answer is None:
            raise RunError(f"a worker died before its first cell: {worker.last_words()}")
        found, fault = answer
        if fault is not None:
            raise RunError(f"in a worker: {fault}")
        return found


class _Process:
    """One process, its environment, and a thread that waits for what it says."""

    def __init__(self, settings: Settings, place: Mapping[str, str], answers: queue.Queue[Any]) -> None:
        self.place, self._errors = place, tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        self._unread: str | None = None
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **place},
            start_new_session=True,  # Ctrl-C is for whoever started it
        )
        threading.Thread(target=self._listen, args=(answers,), daemon=True).start()
        self._send(settings)

    def ask(self, what: str, *arguments: Any) -> None:
        self._send((what, arguments))

    def gone(self) -> bool:
        """Whether it has ended."""
        return self._child.poll() is not None

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    def last_words(self) -> str:
        """What was wrong with its answer, the last line that it wrote to stderr, or how it ended."""
        try:
            code = self._child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            return "it stopped answering"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else lines[-1] if lines else f"exit code {code}"
        return self._unread or ended

    def _send(self, what: Any) -> None:
        assert self._child.stdin is not None
        try:
            pickle.dump(what, self._child.stdin)
            self._child.stdin.flush()
        except OSError:  # it died: the listening thread says so
            pass

    def _listen(self, answers: queue.Queue[Any]) -> None:
        assert self._child.stdout is not None
        try:
            while True:
                answers.put((self, pickle.load(self._child.stdout)))
        except (EOFError, OSError):  # it ended
            pass
        except Exception as error:  # what was pickled may raise anything, e.g. where a module differs
            self._unread = f"its answer cannot be read ({type(error).__name__}: {error})"
            self._child.kill()
        answers.put((self, None))


def share_out(device: str, workers: int | None, gpus: float | None) -> tuple[int, float, list[str]]:
    """How many processes there are, how many GPUs each has, and the GPUs of all. Raises RunError."""
    check_workers(workers, gpus)
    visible = [] if device == "cpu" else _visible()
    each = (1.0 if visible else 0.0) if gpus is None else gpus
    count = workers or (max(1, int(len(visible) / each)) if visible and each else 2)
    if count * each > len(visible) + 1e-9:
        raise RunError(
            f"{count} workers need {count * each:g} GPUs, but this machine has {len(visible)}; ask for fewer --workers "
            "or --gpus-per-worker"
        )
    return count, each, visible


def _visible() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    named = os.environ.get(VISIBLE)
    count = torch.cuda.device_count()
    return [str(i) for i in range(count)] if named is None else named.split(",")[:count]


def _devices(number: int, gpus: float, visible: list[str]) -> dict[str, str]:
    if not gpus:
        return {}
    first = int(number * gpus + 1e-9)
    return {VISIBLE: ",".join(visible[first : first + max(1, round(gpus))])}


def _threads(workers: int) -> dict[str, str]:
    """An equal part of the processors for each worker, unless somebody has said how many threads there are."""
    return {} if THREADS in os.environ else {THREADS: str(max(1, (os.cpu_count() or 1) // workers))}


def _serve(asked: BinaryIO, said: BinaryIO) -> None:
    """Answers questions until there are no more."""
    remote = Remote(pickle.load(asked))
    while True:
        try:
            what, arguments = pickle.load(asked)
        except EOFError:
            return
        pickle.dump(getattr(remote, what)(*arguments), said)
        said.flush()


if __name__ == "__main__":
    said = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    _serve(sys.stdin.buffer, said)
