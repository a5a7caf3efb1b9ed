"""What is going on in one thread, from a call of the model to the last layer of its decoder."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from fastadasp.engine.encoder import EncoderCall, EncoderSeen
from fastadasp.engine.outputs import Asked
from fastadasp.engine.passes import Pass


@dataclass
class Arrival:
    """What the model was called with, until its decoder has run.

    Attributes:
        spans: int [B, T], which clip each position belongs to; None where it is not known.
        ids: the prompt's tokens [B, T].
        mask: the attention mask as the caller gave it.
        asked: outputs that the caller wants and that speak of prompt positions.
        decoded: whether the decoder has run.
        encoder: the audio encoder's last attention, window by window, if the strategy needs it and the encoder has run;
            `heard` is what it says of each clip, once that was asked for.
    """

    spans: Tensor | None
    ids: Tensor | None
    mask: Any
    asked: Asked
    decoded: bool = False
    encoder: list[EncoderCall] = field(default_factory=list)
    heard: EncoderSeen | None = None


class Calls(threading.local):
    """What is going on in one thread: no two threads share any of it.

    Attributes:
        arrival: the call of the model that has begun last.
        entered: whether the model has been called and its layers have not.
        running: the pass through the decoder; None outside of it.
        holds: whether this thread holds the hooks of the layers (`LayerHooks`).
        uncached: the tokens of the last prompt that ran without a cache.
    """

    arrival: Arrival | None = None
    entered: bool = False
    running: Pass | None = None
    holds: bool = False
    uncached: Tensor | None = None


class Eye:
    """The watcher of one layer's attention: it shows what it sees to the pass that is running in its own thread."""

    def __init__(self, calls: Calls, index: int) -> None:
        self._calls, self._index = calls, index

    @property
    def awake(self) -> bool:
        """Whether there is a pass that looks at queries and keys."""
        running = self._calls.running
        return running is not None and running.looks

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Any) -> None:
        if self._calls.running is not None:
            self._calls.running.see(self._index, query, key, value, scale)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor | None:
        """The attention's output where the pass wants to compute it itself."""
        running = self._calls.running
        return None if running is None else running.attend(self._index, query, key, value, scale)
