"""Decay: a fraction that falls to zero at the last layer."""

from __future__ import annotations

from fastadasp import Schedule


class Decay(Schedule):
    """r (1 - (i - L) / (N - 1 - L)) at layer i, for start layer L of N layers: r at L, 0 at the last.

    FastAdaSP-Dense, decay. If the start layer is the last, it removes r there.
    """

    name = "decay"
    summary = "a fraction that falls linearly from the start layer to 0 at the last"
    formula = "r_i = r (1 - (i - L) / (N_layers - 1 - L)) for i ≥ L"
    source = "released code (`decay`)"

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        span = max(num_layers - 1 - start, 1)
        return tuple(ratio * (1 - (i - start) / span) if i >= start else 0.0 for i in range(num_layers))
