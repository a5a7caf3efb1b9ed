"""Constant: the same fraction at every layer from the start layer on."""

from __future__ import annotations

from typing import ClassVar

from fastadasp import Schedule, hookimpl


class Constant(Schedule):
    """r of the current audio tokens at every layer from the start layer to the last. FastAdaSP-Dense, constant."""

    name: ClassVar[str] = "constant"
    summary: ClassVar[str] = "the same fraction at every layer from the start layer on"

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        return tuple(ratio if layer >= start else 0.0 for layer in range(num_layers))


@hookimpl
def fastadasp_schedules() -> list[type[Schedule]]:
    return [Constant]
