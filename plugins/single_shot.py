"""Single shot: one reduction at one layer."""

from __future__ import annotations

from typing import ClassVar

from fastadasp import Schedule, hookimpl


class SingleShot(Schedule):
    """r at the start layer, 0 elsewhere. FastAdaSP's schedule for sparse tasks (released code: schedule ``none``)."""

    name: ClassVar[str] = "single-shot"
    summary: ClassVar[str] = "everything at the start layer"

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        return tuple(ratio if layer == start else 0.0 for layer in range(num_layers))


@hookimpl
def fastadasp_schedules() -> list[type[Schedule]]:
    return [SingleShot]
