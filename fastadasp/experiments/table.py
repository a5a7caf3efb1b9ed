"""The table that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich import box
from rich.table import Table

from fastadasp.contracts.task import Task
from fastadasp.experiments.grid import FULL
from fastadasp.experiments.lines import FEWEST, Line
from fastadasp.inference.costs import Efficiency

COLUMNS = (
    "strategy",
    "budget",
    "metric",
    "95 %",
    "change",
    "audio left",
    "KV bytes",
    "FLOPs removed",
    "prefill",
    "decode",
)

LESS = ("decode", "prefill", "KV bytes", "change", "audio left", "95 %")
"""Columns that a narrow terminal does without, the first to go first."""

NOTE = "FLOPs removed: of the decoder's prefill; in brackets with the encoder's counted too"
"""Stands below a table."""


def task_title(task: Task, lines: Sequence[Line]) -> str:
    """What stands above a task's table."""
    arrow = "higher is better" if task.higher_is_better else "lower is better"
    summary = f": {task.summary}" if task.summary else ""
    return f"{task.name}{summary} ({task.kind}; {task.metric}, {arrow}; {lines[0].cells[0].clips} clips)"


def note(lines: Sequence[Line]) -> str:
    """What stands below it."""
    seeds = max(len(line.cells) for line in lines)
    mean = f"; random strategies: mean of {seeds} seeds" if seeds > 1 else ""
    clips = lines[0].cells[0].clips
    few = f" (too few clips for one: {clips}, it needs {FEWEST})" if clips < FEWEST else ""
    return f"{NOTE}; 95 %: bootstrap interval over the clips{few}{mean}"


def rows(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """One row of text a line, in `COLUMNS`."""
    full = next((line.value for line in lines if line.strategy == FULL), None)
    out: list[tuple[str, ...]] = []
    for line in lines:
        head, costs = (line.strategy, line.budget), line.costs
        if line.value is None or not costs:
            out.append((*head, "failed", *("",) * (len(COLUMNS) - 3)))
            continue
        change = "" if line.strategy == FULL or full is None else f"{line.value - full:+.1f}"
        kept = 1 - fmean(cost.audio_tokens_removed for cost in costs)
        span = "" if line.interval is None else f"{line.interval[0]:.1f} to {line.interval[1]:.1f}"
        out.append(
            (
                *head,
                f"{line.value:.1f}",
                span,
                change,
                f"{fmean(cost.audio_tokens_left for cost in costs):.1f} ({kept:.0%})",
                _size(fmean(cost.kv_bytes for cost in costs)),
                _flops(costs),
                _time(fmean(cost.prefill_seconds for cost in costs)),
                _time(fmean(cost.decode_seconds for cost in costs)),
            )
        )
    return out


def rich_table(task: Task, lines: Sequence[Line]) -> Table:
    """For the terminal."""
    table = Table(title=task_title(task, lines), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.caption, table.caption_justify = note(lines), "left"
    for place, column in enumerate(_header(task)):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    last = FULL
    for line in rows(lines):
        if line[0] != last:
            table.add_section()
        last = line[0]
        table.add_row(*line)
    return table


def groups(task: Task, lines: Sequence[Line]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Header and rows of a further table: the metric by groups of clips, and how many answers named no option.

    Both are empty for a task that has neither.
    """
    done = [cell for line in lines for cell in line.cells if cell.error is None]
    names = [name for cell in done[:1] for name in cell.metrics if name.startswith((f"{task.metric}[", "no_answer"))]
    if not names:
        return [], []
    out: list[tuple[str, ...]] = []
    for line in lines:
        found = [cell.metrics for cell in line.cells if cell.error is None]
        values = [f"{fmean(one[name] for one in found):.1f}" if found else "" for name in names]
        out.append((line.strategy, line.budget, *values))
    shown = [name.removeprefix(task.metric).strip("[]") for name in names]
    heads = ["no option named" if name == "no_answer" else name if "=" in name else f"mean by {name}" for name in shown]
    return ["strategy", "budget", *heads], out


def rich_groups(task: Task, lines: Sequence[Line]) -> Table | None:
    """`groups` for the terminal; None if there are none."""
    header, cells = groups(task, lines)
    if not header:
        return None
    table = Table(title=f"{task.name}: parts, in %", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(header):
        table.add_column(column, justify="left" if place == 0 else "right")
    for one in cells:
        table.add_row(*one)
    return table


def _markdown_table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    head = [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
    return head + [f"| {' | '.join(line)} |" for line in cells]


def markdown(task: Task, lines: Sequence[Line]) -> str:
    """For a README."""
    out = [f"**{task_title(task, lines)}**", "", *_markdown_table(_header(task), rows(lines)), "", note(lines)]
    header, cells = groups(task, lines)
    if header:
        out += ["", *_markdown_table(header, cells)]
    return "\n".join(out) + "\n"


def _header(task: Task) -> tuple[str, ...]:
    name = task.metric if task.metric == "accuracy" else task.metric.upper()
    return tuple(name if column == "metric" else column for column in COLUMNS)


def _flops(costs: Sequence[Efficiency]) -> str:
    both = [c.flops_removed_with_encoder for c in costs if c.flops_removed_with_encoder is not None]
    return f"{fmean(cost.flops_removed for cost in costs):.1%}" + (f" ({fmean(both):.1%})" if both else "")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
