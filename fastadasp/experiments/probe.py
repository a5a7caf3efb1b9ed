"""How long cells will take: from one clip of each task, encoded by itself and answered as a whole batch of its like."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastadasp.errors import RunError
from fastadasp.experiments.combinations import Point
from fastadasp.experiments.worker import Worker


@dataclass(frozen=True)
class Forecast:
    """Seconds that cells take on one worker, and what that is known from."""

    seconds: float
    about: str


def cells_of(points: Sequence[Point]) -> dict[str, int]:
    """How many cells each task has. A start layer that has to be chosen is counted as another cell."""
    chosen = (point for point in points if point.row.strategy is not None and point.row.strategy.needs_calibration)
    return dict(Counter(point.task for point in points) + Counter(point.task for point in chosen))


def probe(worker: Worker, cells: Mapping[str, int], loading: float = 0.0) -> Forecast:
    """Measures the full model and scales up. Keeps nothing: no cell and no stored feature depends on it.

    Strategies remove work, so most cells take less.

    Args:
        cells: how many each task has (`cells_of`), at least one.
        loading: seconds that the model took to load, if that is to be counted.

    Raises:
        RunError: a batch does not fit into memory.
    """
    from fastadasp.inference.clips import encode, read_clip
    from fastadasp.inference.features import FeatureCache
    from fastadasp.inference.machine import out_of_memory
    from fastadasp.inference.runner import seconds_of, warm_up

    loaded, size = worker.loaded, worker.batch_size
    stored, known = FeatureCache(loaded), set[str]()
    total, timed, answered = loading, 0.0, 0
    for name, count in cells.items():
        task, examples = worker.read[0][name], worker.read[1][name]
        middle = examples[len(examples) // 2]
        few, begin = min(size, len(examples)), time.perf_counter()
        try:
            clip = encode(loaded, [middle], [read_clip(middle, loaded)])[0]
            encoding = time.perf_counter() - begin
            if not timed:
                warm_up(loaded, clip)
            seconds = seconds_of(loaded, [clip] * few, task.max_new_tokens, task.choices)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise RunError(f"memory runs out with {few} clip{'s' * (few > 1)} of task {name!r} at a time") from None
        fresh = {str(e.audio) for e in examples if not stored.has(e.audio)} - known
        known |= fresh
        total += encoding * len(fresh) + seconds * math.ceil(len(examples) / few) * count
        timed, answered = timed + seconds, answered + few
    return Forecast(total, f"probe: {1000 * timed / answered:.0f} ms a clip and cell on {loaded.device}")


def in_words(seconds: float) -> str:
    """A length of time, e.g. ``2 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
