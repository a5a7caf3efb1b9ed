"""Runs a grid: takes cells that nobody has, keeps what comes back, waits for what others are at."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from fastadasp.errors import FastAdaSPError
from fastadasp.experiments.combinations import Grid, Point, describe
from fastadasp.experiments.leases import Leases
from fastadasp.experiments.probe import Forecast, probe
from fastadasp.experiments.records import Result
from fastadasp.experiments.store import Store
from fastadasp.experiments.worker import Job, Worker
from fastadasp.selection.cache import Notice

POLL = 0.3
"""Seconds between looks at cells that others are at."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, clips done, clips in all)."""


class Executor(Protocol):
    """Where cells run.

    Attributes:
        notices: what workers had to say while they got ready.
        workers: how many cells run at a time.
    """

    notices: list[str]

    @property
    def workers(self) -> int: ...

    def facts(self) -> dict[str, Any]:
        """`Worker.facts`. Raises FastAdaSPError if no worker can be had, or none can work."""

    def forecast(self, cells: Mapping[str, int]) -> Forecast:
        """How long so many cells of each task will take on all workers together."""

    def free(self) -> bool:
        """Whether another cell can be given out."""

    def submit(self, job: Job) -> None:
        """Gives a cell out."""

    def collect(self) -> list[Result]:
        """Waits a moment, or until a cell is done; answers with those that are."""

    def close(self) -> None:
        """Lets the workers go."""


class Local:
    """Runs cells in this process, one after the other."""

    workers = 1

    def __init__(self, worker: Worker) -> None:
        self.worker, self.notices = worker, list[str]()
        self._jobs: list[Job] = []

    def facts(self) -> dict[str, Any]:
        return self.worker.facts

    def forecast(self, cells: Mapping[str, int]) -> Forecast:
        return probe(self.worker, cells)

    def free(self) -> bool:
        return not self._jobs

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def collect(self) -> list[Result]:
        jobs, self._jobs = self._jobs, []
        return [self.worker.run(job) for job in jobs]

    def close(self) -> None:
        self._jobs.clear()


@dataclass
class Finished:
    """What is known after a run: `results` by cell.

    Attributes:
        stopped: why it ended before its last cell, where every recipe so far failed for one reason.
    """

    grid: Grid
    results: dict[str, Result] = field(default_factory=dict)
    status: Literal["running", "finished", "failed", "cancelled"] = "running"
    stopped: str = ""

    @property
    def points(self) -> list[Point]:
        """The points of the grid whose cell is done, in its order."""
        return [point for point in self.grid.points if point.cell in self.results]

    def error(self, point: Point) -> str | None:
        """Why a cell failed; None if it did not, or was not run."""
        result = self.results.get(point.cell)
        return None if result is None else result.error


@dataclass(frozen=True)
class Redo:
    """Which finished cells are run again: all, or those that failed; each of them once in a run."""

    everything: bool = False
    failed: bool = False

    def wanted(self, result: Result) -> bool:
        """Whether this result, which an earlier run left, is to be made anew."""
        return self.everything or (self.failed and result.error is not None)


def run(
    finished: Finished,
    store: Store,
    executor: Executor,
    *,
    redo: Redo,
    notice: Notice,
    clips: Mapping[str, int] | None = None,
    progress: Progress = lambda *_: None,
    keep: Callable[[], None] = lambda: None,
) -> None:
    """Runs what is not there yet and returns when all cells of `finished.grid` are done, here or by other processes.

    On Ctrl-C what is finished stays and the status is ``cancelled``. Where every recipe fails for one reason it ends
    early (`Finished.stopped`).

    Args:
        clips: how many each task has; one if it is not said.
        keep: is called after each cell.

    Raises:
        RunError: the store or the workers fail; what is finished stays.
    """
    steps = _Steps(finished, clips or {}, progress)
    pending = list(finished.grid.points)
    stale: dict[str, Result] = {}
    if redo.everything or redo.failed:
        earlier = {point.cell: store.get(point.cell) for point in pending}
        stale = {cell: result for cell, result in earlier.items() if result is not None and redo.wanted(result)}
    told = False

    def known(point: Point) -> bool:
        if point.cell not in finished.results:
            result = store.get(point.cell)
            if result is None or result == stale.get(point.cell):
                return False
            steps.done(point, result)
        return True

    try:
        with Leases(store.leases) as leases:
            running: dict[str, Point] = {}
            while pending or running:
                left: list[Point] = []
                for place, point in enumerate(pending):
                    if not executor.free():
                        left += pending[place:]
                        break
                    if known(point):
                        continue
                    if point.cell in running or not leases.take(point.cell):
                        left.append(point)
                    elif known(point):  # by another process, a moment ago
                        leases.give_back(point.cell)
                    else:
                        steps.begin(point)
                        executor.submit(_job(point))
                        running[point.cell] = point
                pending = left
                if running:
                    for result in executor.collect():
                        store.put(result)
                        leases.give_back(result.cell)
                        steps.done(running.pop(result.cell), result)
                        keep()
                    finished.stopped = steps.one_reason()
                    if finished.stopped:
                        break
                elif pending:
                    if not told:
                        notice(f"waiting for {len(pending)} cells that {leases.owner(pending[0].cell)} is at")
                        told = True
                    time.sleep(POLL)
        failed = any(result.error for result in finished.results.values())
        finished.status = "failed" if failed else "finished"
    except KeyboardInterrupt:
        finished.status = "cancelled"
    finally:
        executor.close()
    if finished.status == "cancelled":
        _look(finished, store, notice)


class _Steps:
    """What a run has come to: how far it is, in clips, and whether every recipe fails for one reason."""

    def __init__(self, finished: Finished, clips: Mapping[str, int], progress: Progress) -> None:
        self._finished, self._progress = finished, progress
        self._points: dict[str, list[Point]] = {}
        for point in finished.grid.points:
            self._points.setdefault(point.cell, []).append(point)
        self._clips = {cell: sum(clips.get(p.task, 1) for p in points) for cell, points in self._points.items()}
        self._recipes = {_recipe(point) for point in finished.grid.points if point.labels}
        self._ran, self._total = 0, sum(self._clips.values())
        self._failed: list[Point] = []
        self._reasons: set[str | None] = set()

    def begin(self, point: Point) -> None:
        """A cell is given out."""
        self._progress(str(point), self._ran, self._total)

    def done(self, point: Point, result: Result) -> None:
        """A cell is done, now or by an earlier run."""
        self._finished.results[point.cell] = result
        self._ran += self._clips[point.cell]
        self._progress(str(point), self._ran, self._total)
        if point.labels:
            self._reasons.add(result.error)
            if result.error is not None:
                self._failed += self._points[point.cell]

    def one_reason(self) -> str:
        """The reason why every recipe failed, if it is the same for all; empty if something tells that others work."""
        if len(self._reasons) != 1 or None in self._reasons or len(self._failed) < 3:
            return ""
        tried = {_recipe(point) for point in self._failed}
        return "" if len(tried) < min(len(self._recipes), 2) else str(next(iter(self._reasons)))


def _recipe(point: Point) -> str:
    return describe({**point.labels, "budgets": ""})


def _look(finished: Finished, store: Store, notice: Notice) -> None:
    """Adds what earlier runs and other processes have finished, for a partial report."""
    for point in finished.grid.points:
        if point.cell not in finished.results:
            try:
                result = store.get(point.cell)
            except FastAdaSPError as error:
                notice(str(error))
                return
            if result is not None:
                finished.results[point.cell] = result


def _job(point: Point) -> Job:
    strategy, budget = point.row.strategy, point.row.budget
    return Job(
        point.row.name,
        None if strategy is None else strategy.to_dict(),
        None if budget is None else str(budget),
        point.row.seed,
        point.task,
        point.cell,
    )
