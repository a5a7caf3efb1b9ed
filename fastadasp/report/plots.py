"""A report's plots as pictures: quality against cost, a file a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastadasp.files import told
from fastadasp.report.lines import Line
from fastadasp.report.report import Report

COSTS: dict[str, str | None] = {"flops": "flops_removed", "kv": "kv_removed", "whole": None}
"""Costs by the name of a plot: the fraction that is removed, or none for the time of a clip."""
NAMES = {
    "flops": "FLOPs of the decoder's prefill removed (%)",
    "kv": "KV bytes removed (%)",
    "whole": "encoder, prefill and decoding of a clip (s)",
}


def draw(report: Report, folder: Path) -> list[Path]:
    """Writes ``TASK-COST.png`` and ``.svg`` into `folder`. Raises RunError if it cannot be written."""
    from matplotlib.figure import Figure

    with told(folder, "folder for plots"):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for task in dict.fromkeys(line.task for line in report.lines):
        for cost in COSTS:
            figure = Figure(figsize=(7.5, 4.6), layout="constrained")
            _plot(figure.subplots(), report, task, cost)
            for suffix in (".png", ".svg"):
                path = folder / f"{''.join(c if c.isalnum() or c in '-_' else '-' for c in task)}-{cost}{suffix}"
                with told(folder, "folder for plots"):
                    figure.savefig(path, dpi=160)
                written.append(path)
    return written


def _plot(axes: Any, report: Report, task: str, cost: str) -> None:
    series: dict[str, list[tuple[float, float, Line]]] = {}
    several = len(report.sources) > 1
    for line in report.lines:
        share = COSTS[cost]
        x = line.spent.whole if share is None else line.cost(share)
        if line.task == task and line.value is not None and x is not None:
            name = f"{report.letter(line.run)}: {line.name}" if several else line.name
            series.setdefault(name, []).append((x if share is None else 100 * x, line.value, line))
    markers = "osD^vP*X"
    for place, (name, points) in enumerate(series.items()):
        points.sort(key=lambda point: point[0])
        below = [p[1] - p[2].interval[0] if p[2].interval else 0.0 for p in points]
        above = [p[2].interval[1] - p[1] if p[2].interval else 0.0 for p in points]
        axes.errorbar(
            [p[0] for p in points],
            [p[1] for p in points],
            yerr=[[max(0.0, v) for v in below], [max(0.0, v) for v in above]],
            marker=markers[place // 10 % len(markers)],
            color=f"C{place % 10}",
            label=name,
            capsize=2,
            elinewidth=0.7,
            markersize=5,
        )
    axes.set_xlabel(NAMES[cost])
    axes.set_ylabel(next(line.metric for line in report.lines if line.task == task))
    axes.set_title(task)
    axes.grid(alpha=0.3)
    if not series:
        axes.text(0.5, 0.5, "not known of these runs", ha="center", transform=axes.transAxes)
        return
    legend_beside(axes, len(series))


def legend_beside(axes: Any, lines: int) -> None:
    """A legend right of the axes. The figure becomes as tall as its lines need, or they would squeeze the axes."""
    figure = axes.figure
    figure.set_figheight(max(figure.get_figheight(), 0.16 * lines + 0.4))  # inches of a line of 7 points
    legend = axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # names may hold dollar signs
