"""How many audio tokens clips had before the strategy, for requests whose clips come from vLLM's own caches."""

from __future__ import annotations

from collections import OrderedDict

MOST = 1 << 17
"""Clips that are remembered, about 25 MB: more than vLLM's caches hold, so that none is forgotten before it leaves."""


class Counts:
    """Numbers by the hash of their clip; the one that was asked for least recently goes first."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def put(self, clip: str, count: int) -> None:
        """Remembers a clip's number."""
        self._known[clip] = count
        self.get(clip)
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def get(self, clip: str) -> int | None:
        """A clip's number; None if it is not known, or no longer."""
        if clip in self._known:
            self._known.move_to_end(clip)
        return self._known.get(clip)
