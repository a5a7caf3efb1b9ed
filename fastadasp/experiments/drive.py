"""Runs a plan: takes cells that nobody has, keeps what comes back, waits for what others are at."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from fastadasp.errors import FastAdaSPError
from fastadasp.experiments.leases import Leases
from fastadasp.experiments.plan import Plan, Point
from fastadasp.experiments.records import Result
from fastadasp.experiments.store import Store
from fastadasp.experiments.worker import Job, Worker
from fastadasp.selection.cache import Notice

POLL = 0.3
"""Seconds between looks at cells that others are at."""

Progress = Callable[[str, int, int], None]
"""Called with (what was done last, cells done, cells in all)."""


class Executor(Protocol):
    """Where cells run."""

    def facts(self) -> dict[str, Any]:
        """`Worker.facts`. Raises FastAdaSPError if no worker can be had, or none can work."""

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

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._jobs: list[Job] = []

    def facts(self) -> dict[str, Any]:
        return self.worker.facts

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
class Outcome:
    """What is known after a run: `results` by cell."""

    plan: Plan
    results: dict[str, Result] = field(default_factory=dict)
    status: Literal["running", "finished", "failed", "cancelled"] = "running"


@dataclass(frozen=True)
class Redo:
    """Which finished cells are run again: all, or those that failed. What was run after `since` is not."""

    everything: bool = False
    failed: bool = False
    since: float = field(default_factory=time.time)

    def wanted(self, result: Result) -> bool:
        """Whether this result is to be made anew."""
        return (self.everything or (self.failed and result.error is not None)) and result.started < self.since


def run(
    outcome: Outcome,
    store: Store,
    executor: Executor,
    *,
    redo: Redo,
    notice: Notice,
    progress: Progress = lambda *_: None,
) -> None:
    """Runs what is not there yet and returns when all cells of `outcome.plan` are done, here or by other processes.

    On Ctrl-C what is finished stays and the status is ``cancelled``.

    Raises:
        RunError: the store or the workers fail; what is finished stays.
    """
    plan = outcome.plan
    pending = list(plan.points)
    told = False

    def finished(point: Point) -> bool:
        result = store.get(point.cell)
        if result is None or redo.wanted(result):
            return False
        outcome.results[point.cell] = result
        progress(str(point), len(outcome.results), len(plan.points))
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
                    if finished(point):
                        continue
                    if not leases.take(point.cell):
                        left.append(point)
                    elif finished(point):  # by another process, a moment ago
                        leases.give_back(point.cell)
                    else:
                        executor.submit(_job(point))
                        running[point.cell] = point
                pending = left
                if running:
                    for result in executor.collect():
                        store.put(result)
                        leases.give_back(result.cell)
                        outcome.results[result.cell] = result
                        progress(str(running.pop(result.cell)), len(outcome.results), len(plan.points))
                elif pending:
                    if not told:
                        notice(f"waiting for {len(pending)} cells that {leases.owner(pending[0].cell)} is at")
                        told = True
                    time.sleep(POLL)
        outcome.status = "failed" if any(result.error for result in outcome.results.values()) else "finished"
    except KeyboardInterrupt:
        outcome.status = "cancelled"
    finally:
        executor.close()
    if outcome.status == "cancelled":
        _look(outcome, store, notice)


def _look(outcome: Outcome, store: Store, notice: Notice) -> None:
    """Adds what earlier runs and other processes have finished, for a partial report."""
    for point in outcome.plan.points:
        if point.cell not in outcome.results:
            try:
                result = store.get(point.cell)
            except FastAdaSPError as error:
                notice(str(error))
                return
            if result is not None:
                outcome.results[point.cell] = result


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
