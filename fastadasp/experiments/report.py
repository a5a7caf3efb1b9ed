"""Tables of a comparison for Markdown pages: in its folder, and put into a page of one's own between two marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from fastadasp.contracts.task import Task
from fastadasp.errors import RunError
from fastadasp.experiments.grid import FULL
from fastadasp.experiments.lines import Line
from fastadasp.experiments.table import markdown, task_title

BEGIN = {"table": "<!-- compare-table -->", "overview": "<!-- compare-overview -->"}
"""What stands before a place that is filled: with tables of every column, or with overviews."""
END = "<!-- end -->"

Results = Sequence[tuple[Task, Sequence[Line]]]


def tables(results: Results) -> str:
    """A table a task, a line for each strategy and budget."""
    return "\n".join(markdown(task, lines) for task, lines in results)


def overviews(results: Results) -> str:
    """A table a task, strategies by budgets: the headline metric and its 95 % interval."""
    return "\n".join(_overview(task, lines) for task, lines in results)


def _overview(task: Task, lines: Sequence[Line]) -> str:
    """Budgets of one fraction share a column, whatever they count; another kind than the first is named in its cell."""
    fractions: dict[str, None] = {}
    rows: dict[str, dict[str, str]] = {}
    for line in lines:
        if line.strategy == FULL:
            continue
        kind, _, fraction = line.budget.rpartition("=")
        fractions[fraction] = None
        rows.setdefault(line.strategy, {})[fraction] = (f"{kind}: " if kind == "kv" else "") + _figure(line)
    full = next((_figure(line) for line in lines if line.strategy == FULL), "-")
    kinds = dict.fromkeys(line.budget.rpartition("=")[0] or "tokens" for line in lines if line.strategy != FULL)
    first = next(iter(kinds), "tokens")
    head = ["strategy", *(f"{first} -{float(fraction):.0%}" for fraction in fractions)]
    out = [f"**{task_title(task, lines)}; full model {full}**", "", f"| {' | '.join(head)} |"]
    out += ["|---|" + "---:|" * len(fractions)]
    out += [f"| {name} | {' | '.join(cells.get(f, '') for f in fractions)} |" for name, cells in rows.items()]
    return "\n".join([*out, "", _note(lines)]) + "\n"


def _note(lines: Sequence[Line]) -> str:
    marks = ["in brackets: 95 % bootstrap interval over the clips"]
    if any(line.budget.startswith("kv=") for line in lines):
        marks.append("kv: this fraction of the KV bytes, where a strategy removes no FLOPs")
    if any("[" in _figure(line) for line in lines):
        marks.append("[..]: what was removed, where it is not what was asked for")
    if any(line.value is None for line in lines):
        marks.append("-: out of reach")
    if (seeds := max(len(line.cells) for line in lines)) > 1:
        marks.append(f"random strategies: mean of {seeds} seeds")
    return "; ".join(marks)


def _figure(line: Line) -> str:
    if line.value is None:
        return "-"
    span = "" if line.interval is None else f" ({line.interval[0]:.1f} to {line.interval[1]:.1f})"
    kind, _, fraction = line.budget.rpartition("=")
    removed = fmean(cost.flops_removed for cost in line.costs)
    other = kind == "flops" and abs(removed - float(fraction)) > 0.01
    return f"{line.value:.1f}{span}" + (f" [{removed:.0%}]" if other else "")


def check_page(page: Path) -> None:
    """Raises RunError if `page` cannot be read or has no place to fill."""
    _split(_read(page), page)


def insert(page: Path, results: Results) -> None:
    """Fills the place of `page` that is marked by one of `BEGIN` and `END`. Raises RunError."""
    before, kind, after = _split(_read(page), page)
    filled = tables(results) if kind == "table" else overviews(results)
    try:
        page.write_text(f"{before}{BEGIN[kind]}\n\n{filled}\n{END}{after}", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{page} cannot be written: {error.strerror}") from None


def _read(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{page} cannot be read: {error}") from None


def _split(text: str, page: Path) -> tuple[str, str, str]:
    for kind, mark in BEGIN.items():
        before, found, rest = text.partition(mark)
        _, ended, after = rest.partition(END)
        if found and ended:
            return before, kind, after
    raise RunError(f"{page} has no place for results: write {' or '.join(BEGIN.values())} and below it {END}")
