"""Single shot: one reduction at one layer."""

from __future__ import annotations

from fastadasp import Schedule


class SingleShot(Schedule):
    """r at the start layer, 0 elsewhere. FastAdaSP's schedule for sparse tasks (released code: schedule ``none``)."""

    name = "single-shot"
    summary = "everything at the start layer"
    formula = "r_i = r at i = L, else 0"
    source = "released code (`none`); the paper's choice for sparse tasks"

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        return tuple(ratio if layer == start else 0.0 for layer in range(num_layers))
