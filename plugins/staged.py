"""Staged: the same fraction at the start layer and at a few chosen depths (PyramidDrop)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fastadasp import Schedule


class Staged(Schedule):
    """r at the start layer L and at the layers floor(d N) for each depth d of `at`, as far as they come after L.

    Depths are fractions of the decoder's N layers, so a recipe fits models of any depth. Source: Xing et al.,
    PyramidDrop, CVPR 2025: one half of the tokens goes at each of the layers 8, 16 and 24 of 32.
    """

    name = "staged"
    summary = "the same fraction at the start layer and at chosen depths"
    formula = "r_i = r for i = L and i = ⌊d N_layers⌋, d in `at`"
    source = "PyramidDrop (Xing et al., CVPR 2025)"

    at: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        default=(0.5, 0.75), description="depths, as fractions of the decoder's layers"
    )

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        acting = {start, *(layer for depth in self.at if (layer := int(depth * num_layers + 1e-9)) > start)}
        return tuple(ratio if layer in acting else 0.0 for layer in range(num_layers))
