"""At depth: a start layer that fits models of any depth."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fastadasp import LayerSelector


class AtDepth(LayerSelector):
    """Layer floor(`depth` N) of N: a quarter of the way through the decoder is layer 8 of 32."""

    name: ClassVar[str] = "at-depth"
    summary: ClassVar[str] = "a fraction of the way through the decoder"

    depth: float = Field(default=0.25, ge=0, lt=1)

    def start_layer(self, num_layers: int) -> int:
        return int(self.depth * num_layers)
