"""The tables of a study that a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from fastadasp.compare.grid import FULL
from fastadasp.study.records import Standing
from fastadasp.tasks.task import Task

FIGURES = ("95 %", "difference", "95 % of it", "win/tie/loss", "p (Holm)", "tokens removed", "FLOPs removed", "rank")


def title(task: Task, lines: Sequence[Standing], clips: int, baseline: str) -> str:
    """What stands above a task's table."""
    arrow = "higher is better" if task.higher_is_better else "lower is better"
    return f"{task.name} ({task.metric}, {arrow}; {clips} clips; differences to {baseline})"


def note(lines: Sequence[Standing]) -> str:
    """What stands below it: how to read it, and what cannot be told apart."""
    seeds = max(len(line.seeds) for line in lines)
    over = f"clips and seeds (up to {seeds})" if seeds > 1 else "clips"
    head = f"95 %: bootstrap over {over}, paired for differences; win/tie/loss: clips; equal ranks: not distinguishable"
    return "\n".join([head, *_verdicts(lines)])


def header(task: Task, axes: Sequence[str]) -> tuple[str, ...]:
    """Columns of a table in which `axes` differ from line to line."""
    return (*axes, task.metric if task.metric == "accuracy" else task.metric.upper(), *FIGURES)


def varying(lines: Sequence[Standing]) -> list[str]:
    """The columns that tell the lines apart: strategy, recipe axes with several values, budget."""
    reduced = [line for line in lines if line.strategy != FULL]
    axes = [axis for axis in (reduced[0].axes if reduced else ()) if len({line.axes[axis] for line in reduced}) > 1]
    return ["strategy", *axes, "budget"]


def row(line: Standing, axes: Sequence[str]) -> tuple[str, ...]:
    """One line as text."""
    own = {"strategy": line.strategy, **line.axes, "budget": "-" if line.budget is None else str(line.budget)}
    known = line.difference is not None
    return (
        *(own.get(axis, "") for axis in axes),
        f"{line.value:.1f}",
        _span(line.interval),
        f"{line.difference:+.1f}" if known else "",
        _span(line.difference_interval),
        f"{line.wins}/{line.ties}/{line.losses}" if known else "",
        "" if line.p_holm is None else "<0.001" if line.p_holm < 0.001 else f"{line.p_holm:.3f}",
        f"{line.audio_tokens_removed:.0%}",
        f"{line.flops_removed:.1%}",
        "" if line.rank is None else str(line.rank),
    )


def rich_table(task: Task, lines: Sequence[Standing], clips: int, baseline: str) -> Table:
    """For the terminal."""
    axes = varying(lines)
    table = Table(title=title(task, lines, clips, baseline), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.caption, table.caption_justify = note(lines), "left"
    for place, column in enumerate(header(task, axes)):
        table.add_column(column, justify="left" if place < len(axes) else "right", no_wrap=True)
    for line in lines:
        table.add_row(*row(line, axes))
    return table


def markdown(task: Task, lines: Sequence[Standing], clips: int, baseline: str) -> str:
    """For a page."""
    axes = varying(lines)
    columns = header(task, axes)
    out = [f"**{title(task, lines, clips, baseline)}**", "", f"| {' | '.join(columns)} |"]
    out += ["|" + "---|" * len(axes) + "---:|" * (len(columns) - len(axes))]
    out += [f"| {' | '.join(row(line, axes))} |" for line in lines]
    return "\n".join([*out, "", *(f"{sentence}  " for sentence in note(lines).split("\n"))]) + "\n"


def by_task(standings: Sequence[Standing]) -> Mapping[str, list[Standing]]:
    """The lines of each table."""
    out: dict[str, list[Standing]] = {}
    for line in standings:
        out.setdefault(line.task, []).append(line)
    return out


def _verdicts(lines: Sequence[Standing]) -> list[str]:
    """For each budget, which recipes cannot be told from the best."""
    axes = [axis for axis in varying(lines) if axis != "budget"]
    groups: dict[str, list[Standing]] = {}
    for line in lines:
        if line.rank is not None:
            groups.setdefault(str(line.budget), []).append(line)
    out = []
    for budget, group in groups.items():
        first = [" ".join(filter(None, row(line, axes)[: len(axes)])) for line in group if line.rank == 1]
        if len(group) == 1:
            continue
        if len(first) == len(group):
            out.append(f"at {budget}: the {len(group)} recipes are not distinguishable")
        elif len(first) == 1:
            out.append(f"at {budget}: best is {first[0]}")
        else:
            shown = "; ".join(first[:8]) + (f"; and {len(first) - 8} more" if len(first) > 8 else "")
            out.append(
                f"at {budget}: {len(first)} of {len(group)} recipes are not distinguishable from the best: {shown}"
            )
    return out


def _span(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"
