"""A worker in another process: what executors ask of it, in plain values. Errors for people travel as text."""

from __future__ import annotations

import os
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

from fastadasp.errors import FastAdaSPError, RunError
from fastadasp.experiments.axes import whole_number
from fastadasp.experiments.identity import cell_identity
from fastadasp.experiments.probe import Forecast, probe
from fastadasp.experiments.records import Result
from fastadasp.experiments.worker import Job, Settings, Worker
from fastadasp.recipes.reading import show
from fastadasp.strategy import Strategy

Answer = tuple[Any, str | None]
"""What was asked for, or what went wrong."""


class Remote:
    """What runs there."""

    def __init__(self, settings: Settings) -> None:
        self.notices: list[str] = []
        self.worker = Worker(settings, notice=self.notices.append)

    def facts(self) -> Answer:
        """`Worker.facts`, and what the worker had to say."""
        return self._try(lambda: (self.worker.facts, self.notices))

    def settle(self, batch_size: int) -> Answer:
        """Takes the batch size that another worker found."""
        self.worker.batch_size = batch_size
        return None, None

    def forecast(self, cells: Mapping[str, int]) -> Answer:
        """`probe`."""
        return self._try(lambda: probe(self.worker, cells))

    def run(self, job: Job) -> Answer:
        """`Worker.run`."""
        return self._try(lambda: self.worker.run(job))

    def _try(self, what: Any) -> Answer:
        try:
            return what(), None
        except FastAdaSPError as error:
            return None, str(error)


class RemoteExecutor(ABC):
    """What executors of several `Remote` workers share. Subclasses start the workers, hand out cells and collect.

    Workers without a cell are in ``_idle``; those with one are the keys of ``_busy`` or, with the cell, its values.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._idle = settings, list[Any]()
        self._busy: dict[Any, Any] = {}
        self._facts: dict[str, Any] | None = None
        self.notices: list[str] = []

    def facts(self) -> dict[str, Any]:
        if self._facts is None:
            facts, self.notices = self._ask(self._idle[0], "facts")
            self._settings = replace(self._settings, batch_size=facts["batch_size"])
            for place in range(1, len(self._idle)):  # one that died meanwhile has been replaced
                self._ask(self._idle[place], "settle", facts["batch_size"])
            self._facts = facts
        return dict(self._facts)

    @property
    def workers(self) -> int:
        return len(self._idle) + len(self._busy)

    def forecast(self, cells: Mapping[str, int]) -> Forecast:
        """That of one worker, for several with cells of their own."""
        one: Forecast = self._ask(self._idle[0], "forecast", dict(cells))
        return Forecast(one.seconds / max(1, min(self.workers, sum(cells.values()))), one.about)

    def free(self) -> bool:
        return bool(self._idle)

    @abstractmethod
    def _ask(self, worker: Any, what: str, *arguments: Any) -> Any:
        """The answer of a method of `Remote` while no cell is out. Raises RunError."""


def check_workers(workers: int | None, gpus: float | None) -> None:
    """Raises RunError for numbers that no machine has."""
    if workers is not None and not whole_number(workers, 1):
        raise RunError(f"--workers is at least 1, not {show(workers)}")
    if gpus is not None and not (isinstance(gpus, int | float) and 0 <= gpus < inf):  # not a number, too
        raise RunError(f"--gpus-per-worker is at least 0, not {show(gpus)}")


def lost(job: Job, facts: Mapping[str, Any], error: str) -> Result:
    """The result of a cell whose worker died."""
    from fastadasp.experiments.cell import Scored

    strategy = None if job.recipe is None else Strategy.from_dict(job.recipe)
    return Result(
        cell=job.cell,
        identity=cell_identity(strategy, job.task, facts),
        **vars(Scored(error=error)),
        started=time.time(),
        seconds=0.0,
        host=platform.node(),
        process=os.getpid(),
        device_name="",
    )
