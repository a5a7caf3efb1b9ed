"""Pyramid: early layers keep much, later ones less, in even steps (PyramidKV)."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field

from fastadasp import Schedule


class Pyramid(Schedule):
    """Layers keep from hi down to lo tokens in even steps, m = n (1 - r) on average.

    lo = m / `beta` and hi = 2 m - lo; if that is more than n minus the `window`, hi is n minus the window and
    lo = 2 m - hi. Counts are rounded to the nearest token (halves to the even one). Where lo falls below the window,
    every layer keeps m. The window are tokens that the scorer keeps in any case.

    At the site ``cache``, for which this was made, r is the fraction of keys removed over the layers from L on. Source:
    Cai et al., PyramidKV, 2024, as NVIDIA's kvpress has it.
    """

    name = "pyramid"
    summary = "early layers keep much, later ones less, in even steps"
    formula = "n_i = hi - (i - L) (hi - lo) / (N_layers - 1 - L); lo = m / β, hi = 2 m - lo, m = n (1 - r)"
    source = "PyramidKV (Cai et al., 2024), as in kvpress"

    beta: float = Field(default=20, gt=1, description="the larger, the steeper: the last layer keeps m / beta")
    window: int = Field(default=0, ge=0, description="audio tokens that the scorer keeps in any case")

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        layers, top = num_layers - start, 2 - 1 / self.beta
        steep = _falls([top - i * (top - 1 / self.beta) / max(layers - 1, 1) for i in range(layers)])
        if layers == 1:
            return tuple([0.0] * start + [ratio])
        if (1 - ratio) * top < 1:
            return tuple([0.0] * start + [1 - (1 - ratio) * top, *steep])
        flat = _falls(self._kept(1.0, 0.0, ratio, layers))
        return tuple([0.0] * (start + 1) + [max(min(pair), 0.0) for pair in zip(flat, steep, strict=True)])

    def counts(self, tokens: int, ratio: float, start: int, num_layers: int) -> tuple[int, ...]:
        left = [min(round(x), tokens) for x in self._kept(tokens, self.window, ratio, num_layers - start)]
        return tuple([tokens] * start + left)

    def _kept(self, tokens: float, window: float, ratio: float, layers: int) -> list[float]:
        mean = tokens * (1 - ratio)
        low = mean / self.beta
        high = 2 * mean - low
        if high >= tokens - window:
            high = tokens - window
            low = 2 * mean - high
        if layers == 1 or not tokens >= high >= low >= window:
            return [mean] * layers
        return [high - i * (high - low) / (layers - 1) for i in range(layers)]


def _falls(left: list[float]) -> list[float]:
    """The fraction that goes from each entry to the next."""
    return [1 - after / before for before, after in pairwise(left)]
