"""A worker in another process: what executors ask of it, in plain values. Errors for people travel as text."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from typing import Any

from fastadasp.errors import FastAdaSPError
from fastadasp.experiments.identity import cell_identity
from fastadasp.experiments.probe import Forecast, probe
from fastadasp.experiments.records import Result
from fastadasp.experiments.worker import Job, Settings, Worker
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


def shared(forecast: Forecast, workers: int, cells: int) -> Forecast:
    """A forecast for several workers, each with cells of its own."""
    together = max(1, min(workers, cells))
    return Forecast(forecast.seconds / together, forecast.about)


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
