"""How far a run is, and how often its folder is brought up to date."""

from __future__ import annotations

import time
from collections.abc import Callable

from fastadasp.experiments.drive import Progress

SHARE = 50
"""The folder is brought up to date when this many times as long has gone by as that took last."""


class Inside:
    """Progress between the ends of cells: a worker tells what it is doing, a run how many clips are done."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._done, self._total = progress, 0, 1

    def total(self, what: str, done: int, total: int) -> None:
        self._done, self._total = done, total
        self._progress(what, done, total)

    def __call__(self, what: str, clips: int) -> None:
        self._done = min(self._done + clips, self._total)
        self._progress(what, self._done, self._total)


def seldom(write: Callable[[], None]) -> Callable[[], None]:
    """Calls `write`, but not so often that it takes a part of the time that counts."""
    due = 0.0

    def call() -> None:
        nonlocal due
        begin = time.monotonic()
        if begin >= due:
            write()
            end = time.monotonic()
            due = end + SHARE * (end - begin)

    return call
