"""The table that a person reads."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from fastadasp.compare.grid import FULL
from fastadasp.compare.records import Cell, Efficiency
from fastadasp.tasks.task import Task

COLUMNS = (
    "strategy",
    "budget",
    "metric",
    "change",
    "audio left",
    "KV bytes",
    "FLOPs removed",
    "prefill",
    "decode",
)

NOTE = "FLOPs removed: of the decoder's prefill; in brackets with the encoder's counted too"
"""Stands below a table."""


def task_title(task: Task, cells: Sequence[Cell]) -> str:
    """What stands above a task's table."""
    arrow = "higher is better" if task.higher_is_better else "lower is better"
    summary = f": {task.summary}" if task.summary else ""
    return f"{task.name}{summary} ({task.kind}; {task.metric}, {arrow}; {cells[0].clips} clips)"


def rows(task: Task, cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """One row of text a cell, in `COLUMNS`."""
    full = next((c.metrics.get(task.metric) for c in cells if c.strategy == FULL), None)
    out: list[tuple[str, ...]] = []
    for cell in cells:
        head = (cell.strategy, "-" if cell.budget is None else str(cell.budget))
        cost = cell.efficiency
        if cell.error is not None or cost is None:
            out.append((*head, "failed", *("",) * (len(COLUMNS) - 3)))
            continue
        value = cell.metrics[task.metric]
        change = "" if cell.strategy == FULL or full is None else f"{value - full:+.1f}"
        left = f"{cost.audio_tokens_left:.1f} ({1 - cost.audio_tokens_removed:.0%})"
        out.append(
            (
                *head,
                f"{value:.1f}",
                change,
                left,
                _size(cost.kv_bytes),
                _flops(cost),
                _time(cost.prefill_seconds),
                _time(cost.decode_seconds),
            )
        )
    return out


def rich_table(task: Task, cells: Sequence[Cell]) -> Table:
    """For the terminal."""
    table = Table(title=task_title(task, cells), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.caption, table.caption_justify = NOTE, "left"
    for place, column in enumerate(_header(task)):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    last = FULL
    for line in rows(task, cells):
        if line[0] != last:
            table.add_section()
        last = line[0]
        table.add_row(*line)
    return table


def markdown(task: Task, cells: Sequence[Cell]) -> str:
    """For a README."""
    header = _header(task)
    lines = [f"**{task_title(task, cells)}**", "", f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
    lines += [f"| {' | '.join(line)} |" for line in rows(task, cells)]
    return "\n".join([*lines, "", NOTE]) + "\n"


def _header(task: Task) -> tuple[str, ...]:
    name = task.metric if task.metric == "accuracy" else task.metric.upper()
    return tuple(name if column == "metric" else column for column in COLUMNS)


def _flops(cost: Efficiency) -> str:
    both = cost.flops_removed_with_encoder
    return f"{cost.flops_removed:.1%}" + ("" if both is None else f" ({both:.1%})")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
