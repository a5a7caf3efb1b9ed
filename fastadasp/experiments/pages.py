"""Tables put into a Markdown page of one's own, between two marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from fastadasp.display import markdown_table, signed
from fastadasp.errors import RunError
from fastadasp.experiments.axes import FULL
from fastadasp.experiments.standings import Entry
from fastadasp.experiments.tables import Face, Heading, markdown, span, unclear
from fastadasp.experiments.times import all_times
from fastadasp.files import read_text, told, write_whole

BEGIN = {
    "table": "<!-- compare-table -->",
    "overview": "<!-- compare-overview -->",
    "changes": "<!-- compare-changes -->",
}
"""What stands before a place that is filled: with tables of every column, with overviews, or with overviews that have
the change to the baseline. A place may be a preset's own: ``<!-- compare-changes NAME -->``."""
TIMES = {"times": "<!-- compare-times -->"}
"""What stands before a further place, for what a clip took. A page may have it beside one of `BEGIN`, or alone."""
END = "<!-- end -->"

COUNTED = {
    "tokens": "the audio tokens",
    "flops": "the decoder's prefill FLOPs",
    "kv": "the KV bytes",
    "ratio": "a layer's audio tokens, a schedule's own ratio",
    "mean-tokens": "the audio tokens of all clips together",
    "mean-flops": "the decoder's prefill FLOPs of all clips together",
}
"""What a fraction of each kind of budget is a fraction of."""

Tables = Sequence[tuple[Heading, Sequence[Entry]]]


def overviews(tables: Tables, *, changes: bool = False) -> str:
    """A table a task, strategies by budgets: the headline metric and its 95 % interval, or the paired change."""
    return "\n".join(_overview(heading, entries, changes) for heading, entries in tables)


def _overview(heading: Heading, entries: Sequence[Entry], changes: bool) -> str:
    """Budgets of one fraction share a column, whatever they count; another kind than the first is named in its cell."""
    kinds: dict[str, set[str]] = {}
    rows: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        line = entry.standing
        if line.strategy != FULL:
            kind, fraction = _budget(entry)
            kinds.setdefault(kind, set()).add(line.strategy)
            own = "" if kind == next(iter(kinds)) else f"{kind}: "
            cells = rows.setdefault(" ".join([line.strategy, *line.axes.values()]), {})
            cells.setdefault(fraction, []).append(own + (_change(entry) if changes else _figure(entry)))
    first = next(iter(kinds), "tokens")
    fractions = dict.fromkeys(_budget(entry)[1] for entry in entries if entry.standing.strategy != FULL)
    full = next((_figure(entry) for entry in entries if entry.standing.strategy == FULL), "-")
    head = ["strategy", *(f"{first} -{float(fraction):.0%}" for fraction in fractions)]
    body = ([name, *("; ".join(cells.get(f, ())) for f in fractions)] for name, cells in rows.items())
    title = f"**{heading.title}; full model {full}**"
    return "\n".join([title, "", *markdown_table(head, body), "", _note(heading, entries, kinds, changes)]) + "\n"


def _note(heading: Heading, entries: Sequence[Entry], kinds: Mapping[str, set[str]], changes: bool) -> str:
    """What the figures mean; `kinds` are those of the budgets, the first first, with the strategies that have them."""
    marks = ["in brackets: 95 % bootstrap interval over the clips"]
    if changes:
        marks = [
            f"in brackets: the metric less {heading.baseline}, paired over the clips, with its 95 % interval",
            "bold: distinguishable from no change, corrected for the table (Holm)",
        ]
    for kind in list(kinds)[1:]:
        instead = kind == "kv" and "flops" in kinds and kinds["kv"].isdisjoint(kinds["flops"])
        marks.append(f"{kind}: this fraction of {COUNTED[kind]}{', where a strategy removes no FLOPs' * instead}")
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
    return f"{line.value:.1f}{spread}{_other(entry)}"


def _other(entry: Entry) -> str:
    """What was removed, where it is not what was asked for."""
    kind, fraction = _budget(entry)
    name = {"flops": "flops_removed", "kv": "kv_removed"}.get(kind)
    if name is None:
        return ""
    removed = fmean(getattr(cost, name) for cost in entry.costs)
    return f" [{removed:.0%}]" if abs(removed - float(fraction)) > 0.01 else ""


def _change(entry: Entry) -> str:
    line = entry.standing
    if line.value is None or line.difference is None:
        return _figure(entry)
    within = span(line.difference_interval)
    text = f"{line.value:.1f} ({signed(line.difference)}{', ' if within else ''}{within})"
    return (text if unclear(entry) else f"**{text}**") + _other(entry)


def _budget(entry: Entry) -> tuple[str, str]:
    """Kind and fraction of a budget."""
    kind, _, fraction = str(entry.standing.budget).rpartition("=")
    return kind or "tokens", fraction


def check_page(page: Path, preset: str | None = None) -> None:
    """Raises RunError if `page` cannot be read or has no place to fill, for the preset if there is one.

    Args:
        page: ``page.md``, or ``page.md#NAME`` for the place of that name alone.
    """
    file, name, only = _place(page, preset)
    text = _read(file)
    if not any(_split(text, marks, name, only) for marks in (BEGIN, TIMES)):
        raise _no_place(file, name if only else None)


def insert(page: Path, face: Face, tables: Tables, preset: str | None = None) -> None:
    """Fills the place of `page` that is marked by one of `BEGIN` and `END`, and that of `TIMES`; the preset's own if it
    has one.

    Args:
        page: as for `check_page`.

    Raises:
        RunError: there is no such place.
    """
    page, name, only = _place(page, preset)
    text, found = _read(page), False
    for marks in (BEGIN, TIMES):
        place = _split(text, marks, name, only)
        if place is not None:
            before, kind, mark, after = place
            text, found = f"{before}{mark}\n\n{_filled(kind, face, tables)}\n{END}{after}", True
    if not found:
        raise _no_place(page, name if only else None)
    with told(page, "page"):
        write_whole(page, text)


def _filled(kind: str, face: Face, tables: Tables) -> str:
    if kind == "times":
        return all_times(tables)
    if kind == "table":
        return "\n".join(markdown(face, heading, entries) for heading, entries in tables)
    return overviews(tables, changes=kind == "changes")


def _place(page: Path, preset: str | None) -> tuple[Path, str | None, bool]:
    """The file, the name of the place in it, and whether only that place will do."""
    file, sign, name = str(page).rpartition("#")
    return (Path(file), name, True) if sign and file and name and not page.exists() else (page, preset, False)


def _read(page: Path) -> str:
    try:
        return read_text(page)
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{page} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _split(text: str, marks: Mapping[str, str], name: str | None, only: bool) -> tuple[str, str, str, str] | None:
    """What stands before a place, of which kind it is, its mark, and what stands behind it; None if there is none."""
    own = {} if name is None else {kind: _named(mark, name) for kind, mark in marks.items()}
    for kind, mark in (*own.items(), *(() if only else marks.items())):
        before, found, rest = text.partition(mark)
        _, ended, after = rest.partition(END)
        if found and ended:
            return before, kind, mark, after
    return None


def _named(mark: str, name: str) -> str:
    return mark.replace(" -->", f" {name} -->")


def _no_place(page: Path, name: str | None) -> RunError:
    known = (*BEGIN.values(), *TIMES.values())
    marks = " or ".join(known if name is None else (_named(mark, name) for mark in known))
    return RunError(f"{page} has no place for results: write {marks} and below it {END}")
