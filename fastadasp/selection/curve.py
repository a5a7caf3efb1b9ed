"""Draws what a layer selector estimated, and what a sweep found, as PNG or SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastadasp.errors import RunError

SUFFIXES = (".png", ".svg")


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        losses: estimated loss of each candidate layer, beyond that of the best.
        chosen: the layer that was chosen.
        outcome: metric of each candidate layer, if it was measured.
        metric: its name.
        unit: what losses are measured in.
        noise: the difference below which two losses cannot be told apart, if that is known.
    """

    title: str
    losses: Mapping[int, float]
    chosen: int
    outcome: Mapping[int, float] | None = None
    metric: str = ""
    unit: str = "the selector's unit"
    noise: float | None = None


def check_picture(path: Path) -> None:
    """Refuses a picture that could not be written later. Raises RunError."""
    if path.suffix.lower() not in SUFFIXES:
        raise RunError(f"--plot {path}: a picture's name ends in {' or '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise RunError(f"--plot {path}: there is no folder {path.absolute().parent}")


def draw(path: Path, panels: Sequence[Panel]) -> None:
    """Writes the panels, two a row. Raises RunError if the picture cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.8 * columns, 3.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(grid, panels, strict=False):
        layers = list(panel.losses)
        if panel.noise is not None:
            axes.axhspan(0, panel.noise, color="C0", alpha=0.12, label="within the noise")
        axes.plot(layers, list(panel.losses.values()), "o-", color="C0", label="estimate")
        axes.plot(
            [panel.chosen],
            [panel.losses[panel.chosen]],
            "o",
            color="C0",
            markersize=12,
            fillstyle="none",
            ls="",
            label="chosen",
        )
        axes.set_title(panel.title, fontsize=9)
        axes.set_xlabel("start layer")
        axes.set_ylabel(f"loses more than the best\n({panel.unit})", color="C0", fontsize=9)
        axes.legend(fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel.outcome is not None:
            other = axes.twinx()
            other.plot(list(panel.outcome), list(panel.outcome.values()), "s--", color="C1")
            other.set_ylabel(panel.metric, color="C1")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise RunError(f"--plot {path} cannot be written: {error.strerror or error}") from None
