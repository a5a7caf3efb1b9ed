"""Constant: the same fraction at every layer from the start layer on."""

from __future__ import annotations

from fastadasp import Schedule


class Constant(Schedule):
    """r of the current audio tokens at every layer from the start layer to the last. FastAdaSP-Dense, constant."""

    name = "constant"
    summary = "the same fraction at every layer from the start layer on"
    formula = "r_i = r for i ≥ L"
    source = "released code (`constant`)"

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        return tuple(ratio if layer >= start else 0.0 for layer in range(num_layers))
