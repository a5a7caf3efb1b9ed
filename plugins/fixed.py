"""Fixed: the start layer is given."""

from __future__ import annotations

from pydantic import Field

from fastadasp import LayerSelector, StrategyError


class Fixed(LayerSelector):
    """The schedule starts at ``layer``, counted from 0."""

    name = "fixed"
    summary = "the layer that the recipe names"

    layer: int = Field(default=2, ge=0, description="the layer, counted from 0")

    def start_layer(self, num_layers: int) -> int:
        if self.layer >= num_layers:
            raise StrategyError(f"start layer {self.layer} does not exist: the model has layers 0 to {num_layers - 1}")
        return self.layer
