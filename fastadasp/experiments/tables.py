"""The tables that a person reads: a line for each recipe and budget, with other columns for `compare` and `ablate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from rich import box
from rich.table import Table

from fastadasp.contracts.task import Task
from fastadasp.display import markdown_table, signed
from fastadasp.experiments import flops, spread
from fastadasp.experiments.axes import FULL
from fastadasp.experiments.standings import Entry
from fastadasp.experiments.statistics import FEWEST, LEVEL, least_shown

UNCLEAR = "n.d."
"""Stands where a difference is not distinguishable from none."""


@dataclass(frozen=True)
class Heading:
    """What a table is about.

    Attributes:
        clips: how many the task has.
        units: how many of them are independent of each other.
        baseline: what differences are taken against, in words.
        axes: recipe axes with several values.
        part: which of the task's lines these are, if they are not all.
    """

    task: Task
    clips: int
    units: int
    baseline: str
    axes: Sequence[str] = ()
    part: str = ""

    @property
    def units_in_words(self) -> str:
        """What intervals are taken over."""
        if self.units == self.clips:
            return "clips"
        return f"values of {self.task.unit!r}" if self.task.unit else f"{self.units} recordings"

    @property
    def title(self) -> str:
        """What stands above the table."""
        task = self.task
        arrow = "higher is better" if task.higher_is_better else "lower is better"
        summary = f": {task.summary}" if task.summary else ""
        part = f"; {self.part}" if self.part else ""
        return f"{task.name}{summary} ({task.kind}; {task.metric}, {arrow}; {self.clips} clips{part})"

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that tell lines apart."""
        return ("strategy", *self.axes, "budget")


def unclear(entry: Entry) -> bool:
    """Whether a difference cannot be told from none: its interval holds zero, or so says the test, corrected for the
    whole table. False where there is no difference."""
    line = entry.standing
    if line.difference is None or line.p_holm is None:
        return False
    span = line.difference_interval
    return line.p_holm > LEVEL or (span is not None and span[0] <= 0 <= span[1])


def span(interval: tuple[float, float] | None) -> str:
    """An interval as text."""
    if interval is None or interval[0] == interval[1]:
        return ""
    low, high = (round(end, 1) + 0.0 for end in interval)  # no minus before a zero
    return f"{low:.1f} to {high:.1f}"


def _difference(entry: Entry) -> str:
    value = entry.standing.difference
    return "" if value is None else signed(value)


def _least(entry: Entry) -> str:
    interval = entry.standing.difference_interval
    return "" if interval is None else f"{least_shown(interval):.1f}"


def _p(entry: Entry) -> str:
    p = entry.standing.p_holm
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _verdict(entry: Entry) -> str:
    return UNCLEAR if unclear(entry) else _p(entry)


def _wins(entry: Entry) -> str:
    line = entry.standing
    return "" if line.wins is None else f"{line.wins}/{line.ties}/{line.losses}"


def _left(entry: Entry) -> str:
    kept = 1 - fmean(cost.audio_tokens_removed for cost in entry.costs)
    return f"{fmean(cost.audio_tokens_left for cost in entry.costs):.1f} ({kept:.0%})"


def _flops(entry: Entry) -> str:
    both = [c.flops_removed_with_encoder for c in entry.costs if c.flops_removed_with_encoder is not None]
    return f"{fmean(cost.flops_removed for cost in entry.costs):.1%}" + (f" ({fmean(both):.1%})" if both else "")


def _net(entry: Entry) -> str:
    shares = [cost.flops_removed_net for cost in entry.costs]
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        return "-"
    both = [c.flops_removed_net_with_encoder for c in entry.costs if c.flops_removed_net_with_encoder is not None]
    return f"{fmean(known):.1%}" + (f" ({fmean(both):.1%})" if both else "")


def _size(entry: Entry) -> str:
    count = fmean(cost.kv_bytes for cost in entry.costs)
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


NET = "net"
"""The column of FLOPs removed less what the strategy computes itself."""

POWER = "least shown"
"""The column of `Face.with_power`."""

COLUMNS: dict[str, Callable[[Entry], str]] = {
    "95 %": lambda entry: span(entry.standing.interval),
    "change": _difference,
    "difference": _difference,
    POWER: _least,
    "95 % of it": lambda entry: span(entry.standing.difference_interval),
    "win/tie/loss": _wins,
    "p (Holm)": _p,
    "verdict": _verdict,
    "tokens removed": lambda entry: f"{entry.standing.audio_tokens_removed:.0%}",
    "audio left": _left,
    **spread.COLUMNS,
    "KV bytes": _size,
    "FLOPs removed": _flops,
    NET: _net,
    "rank": lambda entry: "" if entry.standing.rank is None else str(entry.standing.rank),
}
"""What each column says of a line that did not fail."""


@dataclass(frozen=True)
class Face:
    """How a command shows its lines.

    Attributes:
        columns: names in `COLUMNS`, after those that tell lines apart and the metric.
        less: columns that a narrow terminal does without, the first to go first.
    """

    columns: tuple[str, ...]
    less: tuple[str, ...]

    def with_power(self) -> Face:
        """The same with the smallest difference that the clips show."""
        place = 1 + next(i for i, name in enumerate(self.columns) if name in ("change", "difference"))
        return Face((*self.columns[:place], POWER, *self.columns[place:]), self.less)

    def with_spread(self) -> Face:
        """The same with what single clips lose, and the worst one."""
        place = 1 + next(i for i, name in enumerate(self.columns) if name in ("audio left", "tokens removed"))
        return Face((*self.columns[:place], *spread.COLUMNS, *self.columns[place:]), (*self.less, *spread.COLUMNS))

    def header(self, heading: Heading) -> tuple[str, ...]:
        """All columns."""
        metric = heading.task.metric
        return (*heading.names, metric if metric == "accuracy" else metric.upper(), *self.columns)

    def row(self, entry: Entry, names: Sequence[str]) -> tuple[str, ...]:
        """One line as text; `names` are the columns that tell lines apart."""
        line, head = entry.standing, names_of(entry, names)
        if line.value is None or not entry.costs:
            return (*head, "failed", *("",) * len(self.columns))
        return (*head, f"{line.value:.1f}", *(COLUMNS[name](entry) for name in self.columns))

    def note(self, heading: Heading, entries: Sequence[Entry]) -> str:
        """What stands below a table: how to read it, and what cannot be told apart."""
        seeds = max((len(entry.standing.seeds) for entry in entries), default=1)
        what = heading.units_in_words
        over = f"{what} and seeds" if seeds > 1 else what
        few = "" if heading.units >= FEWEST else f" (too few {what} for one: {heading.units}, it needs {FEWEST})"
        out = [f"95 %: bootstrap over {over}{few}"]
        if seeds > 1:
            out.append(f"random strategies: mean of {seeds} seeds")
        for name in ("change", "difference"):
            if name in self.columns:
                out.append(f"{name}: less {heading.baseline}, paired over the clips")
        if POWER in self.columns:
            out.append(f"{POWER}: the smallest difference that these {what} show in 4 of 5 tests at the 5 % level")
        if "verdict" in self.columns:
            out.append(
                f"verdict: p of the change, corrected for the table (Holm), or {UNCLEAR}: not distinguishable from none"
            )
        if "win/tie/loss" in self.columns:
            out.append("win/tie/loss: clips; equal ranks: not distinguishable")
        if "FLOPs removed" in self.columns:
            out.append(flops.note(entries))
        if set(spread.COLUMNS) <= set(self.columns):
            out.append(spread.NOTE)
        if NET in self.columns:
            out.append(f"{NET}: the same less what the strategy computes itself (-: it does not say)")
        lines = ["; ".join(out)]
        return "\n".join([*lines, *(_best(self, heading, entries) if "rank" in self.columns else [])])


COMPARISON = Face(
    ("95 %", "change", "95 % of it", "verdict", "audio left", "KV bytes", "FLOPs removed", NET),
    ("KV bytes", NET, "95 % of it", "audio left", "95 %", "verdict", "change"),
)
"""The columns of `compare`."""

STUDY = Face(
    ("95 %", "difference", "95 % of it", "win/tie/loss", "p (Holm)", "tokens removed", "FLOPs removed", NET, "rank"),
    (NET, "tokens removed", "95 % of it", "win/tie/loss", "95 %", "rank", "FLOPs removed"),
)
"""The columns of `ablate`."""


def rich_table(face: Face, heading: Heading, entries: Sequence[Entry]) -> Table:
    """For the terminal."""
    rows = [face.row(entry, heading.names) for entry in entries]
    table = rich_lines(heading.title, heading, face.header(heading), rows, fold=False)
    table.caption = face.note(heading, entries)
    return table


def rich_lines(
    title: str, heading: Heading, header: Sequence[str], rows: Sequence[Sequence[str]], *, fold: bool = True
) -> Table:
    """Lines as text for the terminal: what tells them apart stands at the left, a space between strategies.

    Args:
        fold: long cells go on in the next line where the terminal is narrow.
    """
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(header):
        side: Literal["left", "right"] = "left" if place < len(heading.names) - 1 else "right"
        table.add_column(column, justify=side, no_wrap=not fold, overflow="fold")
    last = FULL
    for row in rows:
        if row[0] != last:
            table.add_section()
        last = row[0]
        table.add_row(*row)
    return table


def markdown(face: Face, heading: Heading, entries: Sequence[Entry]) -> str:
    """For a page."""
    header, left = face.header(heading), len(heading.names) - 1
    rows = (face.row(entry, heading.names) for entry in entries)
    out = [f"**{heading.title}**", "", *markdown_table(header, rows, "l" * left)]
    sentences = face.note(heading, entries).split("\n")
    out += ["", *(f"{sentence}  " for sentence in sentences[:-1]), sentences[-1]]
    parts, cells = groups(heading, entries)
    if parts:
        out += ["", *markdown_table(parts, cells, "l" * left)]
    return "\n".join(out) + "\n"


def groups(heading: Heading, entries: Sequence[Entry]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Header and lines of a further table: the metric by groups of clips, and how many answers named no option.

    Both are empty for a task that has neither.
    """
    metric, found = heading.task.metric, [one for entry in entries for one in entry.metrics[:1]]
    names = [name for name in (found[0] if found else ()) if name.startswith((f"{metric}[", "no_answer"))]
    if not names:
        return [], []
    out: list[tuple[str, ...]] = []
    for entry in entries:
        values = [f"{fmean(one[name] for one in entry.metrics):.1f}" if entry.metrics else "" for name in names]
        out.append((*names_of(entry, heading.names), *values))
    shown = [name.removeprefix(metric).strip("[]") for name in names]
    heads = ["no option named" if name == "no_answer" else name if "=" in name else f"mean by {name}" for name in shown]
    return [*heading.names, *heads], out


def rich_groups(heading: Heading, entries: Sequence[Entry]) -> Table | None:
    """`groups` for the terminal; None if there are none."""
    header, cells = groups(heading, entries)
    if not header:
        return None
    return rich_lines(f"{heading.task.name}: parts, in %", heading, header, cells)


def names_of(entry: Entry, names: Sequence[str]) -> tuple[str, ...]:
    """What tells a line apart, as text."""
    line = entry.standing
    own = {"strategy": line.strategy, **line.axes, "budget": "-" if line.budget is None else str(line.budget)}
    return tuple(own.get(name, "") for name in names)


def _best(face: Face, heading: Heading, entries: Sequence[Entry]) -> list[str]:
    """For each budget, which recipes cannot be told from the best."""
    named = [name for name in heading.names if name != "budget"]
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.standing.rank is not None:
            groups.setdefault(str(entry.standing.budget), []).append(entry)
    out = []
    for budget, group in groups.items():
        first = [" ".join(face.row(one, named)[: len(named)]) for one in group if one.standing.rank == 1]
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
