"""How long a study will take, from a first look: a few clips of each task through the encoder and two cells."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastadasp.experiments.plan import Point
from fastadasp.experiments.worker import Worker


@dataclass(frozen=True)
class Estimate:
    """Seconds that the cells of a study take on one worker, loading of the model included."""

    seconds: float
    about: str


def probe(worker: Worker, loading: float, points: Sequence[Point]) -> Estimate:
    """Runs some of the cells to do on one batch of each task, and scales up.

    Args:
        points: the cells to do, at least one.
        loading: seconds that it took to load the model and read the clips.
    """
    total, timed, clips = loading, 0.0, 0
    for task in dict.fromkeys(point.task for point in points):
        own = [point for point in points if point.task == task]
        wanted = len(worker.read[1][task])
        few = min(wanted, worker.settings.batch_size)
        small = _shortened(worker, task, few)
        begin = time.perf_counter()
        small.prepare(task)
        encoding = time.perf_counter() - begin
        total += encoding * wanted / few
        plain = [point for point in own if point.row.strategy is None or not point.row.strategy.needs_calibration]
        chosen = [point for point in own if point.row.strategy is not None and point.row.strategy.needs_calibration]
        for group in (plain, chosen):
            tried = list({0: group[0], len(group) - 1: group[-1]}.values()) if group else []
            spent = [_seconds(small, point) for point in tried]
            if spent:
                total += len(group) * sum(spent) / len(spent) * wanted / few
                timed, clips = timed + sum(spent), clips + few * len(spent)
    return Estimate(total, f"probe: {1000 * timed / clips:.0f} ms a clip and cell on {worker.loaded.device}")


def _shortened(worker: Worker, task: str, clips: int) -> Worker:
    """A worker with the same model and the first clips of one task."""
    s = worker.settings
    tasks, examples = worker.read
    return Worker(
        replace(s, limit=clips),
        read=({task: tasks[task]}, {task: examples[task][:clips]}),
        loaded=worker.loaded,
    )


def _seconds(worker: Worker, point: Point) -> float:
    begin = time.perf_counter()
    worker.attempt(point.row, point.task)
    return time.perf_counter() - begin


def in_words(seconds: float) -> str:
    """A length of time, e.g. ``2 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
