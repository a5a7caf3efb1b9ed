"""Tables put into a Markdown page of one's own, between two marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from fastadasp.errors import RunError
from fastadasp.experiments.axes import FULL
from fastadasp.experiments.standings import Entry
from fastadasp.experiments.tables import Face, Heading, markdown
from fastadasp.files import read_text, told, write_whole

BEGIN = {"table": "<!-- compare-table -->", "overview": "<!-- compare-overview -->"}
"""What stands before a place that is filled: with tables of every column, or with overviews."""
END = "<!-- end -->"

Tables = Sequence[tuple[Heading, Sequence[Entry]]]


def overviews(tables: Tables) -> str:
    """A table a task, strategies by budgets: the headline metric and its 95 % interval."""
    return "\n".join(_overview(heading, entries) for heading, entries in tables)


def _overview(heading: Heading, entries: Sequence[Entry]) -> str:
    """Budgets of one fraction share a column, whatever they count; another kind than the first is named in its cell."""
    fractions: dict[str, None] = {}
    rows: dict[str, dict[str, str]] = {}
    for entry in entries:
        line = entry.standing
        if line.strategy == FULL:
            continue
        kind, _, fraction = _budget(entry).rpartition("=")
        fractions[fraction] = None
        name = " ".join([line.strategy, *line.axes.values()])
        rows.setdefault(name, {})[fraction] = (f"{kind}: " if kind == "kv" else "") + _figure(entry)
    full = next((_figure(entry) for entry in entries if entry.standing.strategy == FULL), "-")
    kinds = dict.fromkeys(_budget(e).rpartition("=")[0] or "tokens" for e in entries if e.standing.strategy != FULL)
    first = next(iter(kinds), "tokens")
    head = ["strategy", *(f"{first} -{float(fraction):.0%}" for fraction in fractions)]
    out = [f"**{heading.title}; full model {full}**", "", f"| {' | '.join(head)} |"]
    out += ["|---|" + "---:|" * len(fractions)]
    out += [f"| {name} | {' | '.join(cells.get(f, '') for f in fractions)} |" for name, cells in rows.items()]
    return "\n".join([*out, "", _note(entries)]) + "\n"


def _note(entries: Sequence[Entry]) -> str:
    marks = ["in brackets: 95 % bootstrap interval over the clips"]
    if any(_budget(entry).startswith("kv=") for entry in entries):
        marks.append("kv: this fraction of the KV bytes, where a strategy removes no FLOPs")
    if any("[" in _figure(entry) for entry in entries):
        marks.append("[..]: what was removed, where it is not what was asked for")
    if any(entry.standing.value is None for entry in entries):
        marks.append("-: out of reach")
    if (seeds := max(len(entry.standing.seeds) for entry in entries)) > 1:
        marks.append(f"random strategies: mean of {seeds} seeds")
    return "; ".join(marks)


def _figure(entry: Entry) -> str:
    line = entry.standing
    if line.value is None:
        return "-"
    spread = "" if line.interval is None else f" ({line.interval[0]:.1f} to {line.interval[1]:.1f})"
    kind, _, fraction = _budget(entry).rpartition("=")
    removed = fmean(cost.flops_removed for cost in entry.costs)
    other = kind == "flops" and abs(removed - float(fraction)) > 0.01
    return f"{line.value:.1f}{spread}" + (f" [{removed:.0%}]" if other else "")


def _budget(entry: Entry) -> str:
    return "-" if entry.standing.budget is None else str(entry.standing.budget)


def check_page(page: Path) -> None:
    """Raises RunError if `page` cannot be read or has no place to fill."""
    _split(_read(page), page)


def insert(page: Path, face: Face, tables: Tables) -> None:
    """Fills the place of `page` that is marked by one of `BEGIN` and `END`. Raises RunError."""
    before, kind, after = _split(_read(page), page)
    whole = "\n".join(markdown(face, heading, entries) for heading, entries in tables)
    filled = whole if kind == "table" else overviews(tables)
    with told(page, "page"):
        write_whole(page, f"{before}{BEGIN[kind]}\n\n{filled}\n{END}{after}")


def _read(page: Path) -> str:
    try:
        return read_text(page)
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{page} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _split(text: str, page: Path) -> tuple[str, str, str]:
    for kind, mark in BEGIN.items():
        before, found, rest = text.partition(mark)
        _, ended, after = rest.partition(END)
        if found and ended:
            return before, kind, after
    raise RunError(f"{page} has no place for results: write {' or '.join(BEGIN.values())} and below it {END}")
