"""The page: one HTML file that needs nothing beside it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from fastadasp.display import signed
from fastadasp.experiments import spread
from fastadasp.leaderboard.boards import COSTS, Board, Entry
from fastadasp.leaderboard.submission import Submission
from fastadasp.report.plots import legend_beside
from fastadasp.report.shell import render

UNITS = {"flops": (1e9, "GFLOPs of the decoder's prefill"), "kv_bytes": (1e6, "MB of keys and values")}


def html(submissions: Sequence[Submission], boards: Sequence[Board], title: str = "fastadasp leaderboard") -> str:
    """The boards as a page. Whatever comes from submissions is escaped."""
    shown = [
        {"board": board, "columns": columns_of(board), "rows": _rows(board), "plots": _plots(board)} for board in boards
    ]
    return render(
        "leaderboard.html",
        None,
        package="fastadasp.leaderboard",
        title=title,
        submissions=list({one.checksum: one for one in submissions}.values()),
        boards=shown,
    )


COLUMNS = (
    "rank",
    "model",
    "strategy",
    "budget",
    "value",
    "95 %",
    "change",
    "audio tokens removed",
    *spread.MEANING,
    "GFLOPs",
    "FLOPs removed",
    "KV MB",
    "KV removed",
    "prefill",
    "best for its",
)


def columns_of(board: Board) -> list[str]:
    """The columns that a board is shown with: with what single clips lose where a budget is one of all clips."""
    spreads = any(entry.row.threshold is not None for entry in board.entries)
    return [name for name in COLUMNS if spreads or name not in spread.MEANING]


def _rows(board: Board) -> list[list[str]]:
    shown = columns_of(board)
    return [
        [text for name, text in zip(COLUMNS, cells(entry), strict=True) if name in shown] for entry in board.entries
    ]


def cells(entry: Entry) -> list[str]:
    """A row's texts, in `COLUMNS`."""
    row, span = entry.row, entry.row.interval
    fronts = {"flops": "FLOPs", "kv_bytes": "KV", "prefill_seconds": "time"}
    return [
        str(entry.rank),
        entry.submission.model.name,
        row.strategy,
        row.budget,
        f"{row.value:.2f}",
        "" if span is None else f"{span[0]:.2f} to {span[1]:.2f}",
        "" if entry.change is None else signed(entry.change, 2),
        f"{row.audio_tokens_removed:.1%}",
        *spread.texts([vars(row)], row.worst).values(),
        f"{row.flops / 1e9:.3g}",
        f"{row.flops_removed:.1%}",
        f"{row.kv_bytes / 1e6:.3g}",
        f"{row.kv_removed:.1%}",
        "not measured" if row.prefill_seconds is None else f"{1000 * row.prefill_seconds:.0f} ms",
        ", ".join(name for cost, name in fronts.items() if cost in entry.fronts),
    ]


def _plots(board: Board) -> list[tuple[str, str]]:
    """Quality against each cost: (what it is set against, SVG)."""
    out = []
    for cost in ("flops", "kv_bytes"):
        out.append((COSTS[cost], _plot(board, board.entries, cost, *UNITS[cost])))
    machines: dict[tuple[object, ...], list[Entry]] = {}
    for entry in board.entries:
        if entry.row.prefill_seconds is not None:
            machines.setdefault(entry.machine, []).append(entry)
    for (name, threads, batch, dtype), entries in machines.items():
        where = f"{name}, {threads} threads, batches of {batch}, {dtype}"
        out.append((f"prefill on {where}", _plot(board, entries, "prefill_seconds", 1e-3, "ms of prefill")))
    return out


def _plot(board: Board, entries: Sequence[Entry], cost: str, unit: float, label: str) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "fastadasp", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes: Any = figure.subplots()
        series: dict[str, list[Entry]] = {}
        for entry in entries:
            series.setdefault(f"{entry.submission.model.name}: {entry.row.strategy}", []).append(entry)
        for place, (name, points) in enumerate(series.items()):
            points = sorted(points, key=lambda one: getattr(one.row, cost))
            spans = [one.row.interval or (one.row.value, one.row.value) for one in points]
            values = [one.row.value for one in points]
            below = [max(0.0, value - span[0]) for value, span in zip(values, spans, strict=True)]
            above = [max(0.0, span[1] - value) for value, span in zip(values, spans, strict=True)]
            axes.errorbar(
                [getattr(one.row, cost) / unit for one in points],
                values,
                yerr=[below, above],
                marker="osD^vP*X"[place // 10 % 8],
                color=f"C{place % 10}",
                label=name,
                capsize=2,
                elinewidth=0.7,
                linewidth=0.9,
                markersize=5,
            )
        front = sorted((one for one in entries if cost in one.fronts), key=lambda one: getattr(one.row, cost))
        axes.plot(
            [getattr(one.row, cost) / unit for one in front],
            [one.row.value for one in front],
            linestyle="--",
            color="0.45",
            linewidth=1.2,
            label="Pareto front",
            zorder=0,
        )
        if axes.get_ylim()[0] < 0 <= min((entry.row.value for entry in entries), default=0):
            axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])  # no score is below 0
        arrow = "higher" if board.task.facts.higher_is_better else "lower"
        axes.set_xlabel(label)
        axes.set_ylabel(f"{board.task.facts.metric} ({arrow} is better)")
        axes.grid(alpha=0.25)
        legend_beside(axes, len(series) + 1)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue().partition("<svg")[1] + file.getvalue().partition("<svg")[2]
