"""The attention of one layer, as a prompt on its way through the decoder has seen it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastadasp.engine.rotation import Rotation


@dataclass(frozen=True)
class Seen:
    """Queries, keys and values of the attention that was computed last; `valid` is False for padding keys.

    `received` is what its keys received, where that was taken along.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    valid: Tensor | None
    rotation: Rotation | None
    received: Tensor | None
