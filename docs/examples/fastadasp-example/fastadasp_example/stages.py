"""Stages: the same fraction at a few evenly spaced layers (PyramidDrop)."""

from __future__ import annotations

from pydantic import Field

from fastadasp import Schedule


class Stages(Schedule):
    """r at the layers L + floor(t (N - L) / `stages`), t = 0 ... `stages` - 1, for start layer L of N layers.

    Source: Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy
    Reduction", CVPR 2025.
    """

    name = "stages"
    summary = "the same fraction at a few evenly spaced layers"

    stages: int = Field(default=3, ge=1)

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        left = num_layers - start
        count = min(self.stages, left)
        acting = {start + turn * left // count for turn in range(count)}
        return tuple(ratio if layer in acting else 0.0 for layer in range(num_layers))
