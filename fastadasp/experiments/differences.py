"""The tables of a study that a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from fastadasp.contracts.task import Task
from fastadasp.experiments.records import Standing

FIGURES = ("95 %", "difference", "95 % of it", "win/tie/loss", "p (Holm)", "tokens removed", "FLOPs removed", "rank")


LESS = ("tokens removed", "95 % of it", "win/tie/loss", "95 %", "rank", "FLOPs removed")
"""Columns that a narrow terminal does without, the first to go first."""


@dataclass(frozen=True)
class Heading:
    """What a table of a study is about.

    Attributes:
        clips: how many the task has.
        baseline: what differences are taken against, in words.
        axes: recipe axes with several values.
    """

    task: Task
    clips: int
    baseline: str
    axes: Sequence[str]

    @property
    def title(self) -> str:
        """What stands above the table."""
        arrow = "higher is better" if self.task.higher_is_better else "lower is better"
        about = f"{self.task.metric}, {arrow}; {self.clips} clips; differences to {self.baseline}"
        return f"{self.task.name} ({about})"

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that tell lines apart."""
        return ("strategy", *self.axes, "budget")

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns."""
        metric = self.task.metric
        return (*self.names, metric if metric == "accuracy" else metric.upper(), *FIGURES)


def note(lines: Sequence[Standing], names: Sequence[str]) -> str:
    """What stands below a table: how to read it, and what cannot be told apart."""
    seeds = max(len(line.seeds) for line in lines)
    over = f"clips and seeds (up to {seeds})" if seeds > 1 else "clips"
    head = f"95 %: bootstrap over {over}, paired for differences; win/tie/loss: clips; equal ranks: not distinguishable"
    return "\n".join([head, *_verdicts(lines, names)])


def row(line: Standing, names: Sequence[str]) -> tuple[str, ...]:
    """One line as text."""
    own = {"strategy": line.strategy, **line.axes, "budget": "-" if line.budget is None else str(line.budget)}
    known = line.difference is not None
    return (
        *(own.get(name, "") for name in names),
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


def rich_table(heading: Heading, lines: Sequence[Standing]) -> Table:
    """For the terminal."""
    table = Table(title=heading.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.caption, table.caption_justify = note(lines, heading.names), "left"
    for place, column in enumerate(heading.columns):
        table.add_column(column, justify="left" if place < len(heading.names) else "right", no_wrap=True)
    for line in lines:
        table.add_row(*row(line, heading.names))
    return table


def markdown(heading: Heading, lines: Sequence[Standing]) -> str:
    """For a page."""
    names, columns = heading.names, heading.columns
    out = [f"**{heading.title}**", "", f"| {' | '.join(columns)} |"]
    out += ["|" + "---|" * len(names) + "---:|" * (len(columns) - len(names))]
    out += [f"| {' | '.join(row(line, names))} |" for line in lines]
    return "\n".join([*out, "", *(f"{sentence}  " for sentence in note(lines, names).split("\n"))]) + "\n"


def by_task(standings: Sequence[Standing]) -> Mapping[str, list[Standing]]:
    """The lines of each table."""
    out: dict[str, list[Standing]] = {}
    for line in standings:
        out.setdefault(line.task, []).append(line)
    return out


def _verdicts(lines: Sequence[Standing], names: Sequence[str]) -> list[str]:
    """For each budget, which recipes cannot be told from the best."""
    named = [name for name in names if name != "budget"]
    groups: dict[str, list[Standing]] = {}
    for line in lines:
        if line.rank is not None:
            groups.setdefault(str(line.budget), []).append(line)
    out = []
    for budget, group in groups.items():
        first = [" ".join(row(line, named)[: len(named)]) for line in group if line.rank == 1]
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
    return "" if interval is None or interval[0] == interval[1] else f"{interval[0]:.1f} to {interval[1]:.1f}"
