"""Leaving: one reduction, and later all audio leaves (SEATS)."""

from __future__ import annotations

from pydantic import Field

from fastadasp import Schedule


class Leaving(Schedule):
    """r at the start layer L; at layer floor(`depth` N) of N, and not before L + 1, all audio that is left leaves.

    By then the text has taken from the sound what it needs, so late layers work on text alone: they and their caches
    hold no audio at all. A budget in tokens counts what is gone before that.

    Source: SEATS, arXiv 2605.14458, after its abstract and README: all audio leaves in late layers.
    """

    name = "leaving"
    summary = "one reduction, and at a late layer all audio leaves"
    formula = "r_i = r at i = L; all that is left goes at i = ⌊depth · N_layers⌋"
    source = "SEATS (arXiv 2605.14458), after its abstract"

    depth: float = Field(default=0.75, ge=0, lt=1, description="where all audio leaves, as a fraction of the layers")

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        return tuple(ratio if layer == start else 0.0 for layer in range(num_layers))

    def exit_layer(self, start: int, num_layers: int) -> int | None:
        layer = max(int(self.depth * num_layers + 1e-9), start + 1)
        return layer if layer < num_layers else None
