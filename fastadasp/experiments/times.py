"""What a clip took: encoder, prefill, decoding and the whole, and how much of the whole a strategy saves.

Times are what a clock said on a machine that did other things, too: they stand beside the tables of results and in
files of their own, never in those that have the same bytes in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from rich.table import Table

from fastadasp.display import markdown_table
from fastadasp.experiments.axes import FULL
from fastadasp.experiments.standings import Entry
from fastadasp.experiments.tables import Heading, names_of, rich_lines
from fastadasp.inference.machine import time_text

COLUMNS = ("encoder", "prefill", "decode", "whole", "saved")
"""The columns after those that tell lines apart."""
UNKNOWN = "-"
"""Stands where a time is not known."""


class Clocked(Protocol):
    """A cell's times: fields of `Efficiency`, and of a line of ``times.jsonl``."""

    @property
    def encoder_clip_seconds(self) -> float | None: ...

    @property
    def prefill_clip_seconds(self) -> float | None: ...

    @property
    def decode_clip_seconds(self) -> float | None: ...

    @property
    def encoder_machine(self) -> str | None: ...

    @property
    def machine(self) -> str | None: ...


@dataclass(frozen=True)
class Spent:
    """Seconds of a clip, median of the clips and seeds; None where they are not known.

    Attributes:
        whole: encoder, prefill and decoding, if one machine did all three.
        saved: the fraction of the full model's whole that is saved; None for the full model.
    """

    encoder: float | None = None
    prefill: float | None = None
    decode: float | None = None
    whole: float | None = None
    saved: float | None = None


def spent(lines: Sequence[tuple[bool, Sequence[Clocked]]]) -> list[Spent]:
    """The times of the lines of one task.

    No strategy changes the encoder's time, so all lines have one: the median of what their cells know.

    Args:
        lines: of each, whether it is the full model's, and its cells.
    """
    cells = [cell for _, own in lines for cell in own]
    known = [cell.encoder_clip_seconds for cell in cells if cell.encoder_clip_seconds is not None]
    encoder = median(known) if known else None
    together = len(machines(cells)) == 1
    out = []
    for _, own in lines:
        prefill, decode = _middle([c.prefill_clip_seconds for c in own]), _middle([c.decode_clip_seconds for c in own])
        whole = None
        if together and encoder is not None and prefill is not None and decode is not None:
            whole = encoder + prefill + decode
        out.append(Spent(encoder if prefill is not None else None, prefill, decode, whole))
    full = next((one.whole for (is_full, _), one in zip(lines, out, strict=True) if is_full), None)
    return [
        one
        if is_full or full is None or one.whole is None
        else Spent(one.encoder, one.prefill, one.decode, one.whole, 1 - one.whole / full)
        for (is_full, _), one in zip(lines, out, strict=True)
    ]


def machines(cells: Sequence[Clocked]) -> list[str]:
    """The machines that these times were taken on."""
    names = [name for cell in cells for name in (cell.encoder_machine, cell.machine) if name is not None]
    return list(dict.fromkeys(names))


def why_unknown(cells: Sequence[Clocked]) -> str:
    """Why some of the times of a task's cells are not known; empty if all are."""
    found = machines(cells)
    if not any(cell.prefill_clip_seconds is not None for cell in cells):
        return "an earlier version of fastadasp, which took no times of single clips, ran these cells"
    if all(cell.encoder_clip_seconds is None for cell in cells):
        return (
            "nobody measured the encoder: vLLM runs it within the prefill, and an earlier version kept the features "
            "without their time (fastadasp cache --clear features makes them anew)"
        )
    if len(found) > 1:
        return f"times of several machines make no whole ({'; '.join(found)})"
    return ""


def shown(seconds: float | None) -> str:
    """A time as text."""
    return UNKNOWN if seconds is None else time_text(seconds)


def texts(one: Spent, *, full: bool) -> tuple[str, ...]:
    """The cells of a line, in the order of `COLUMNS`."""
    saved = "" if full else UNKNOWN if one.saved is None else f"{one.saved + 0.0:.1%}"
    return (*(shown(part) for part in (one.encoder, one.prefill, one.decode, one.whole)), saved)


def rich_times(heading: Heading, entries: Sequence[Entry]) -> Table | None:
    """The times of a table's lines, for the terminal; None if no line has any."""
    rows = _rows(heading, entries)
    if not rows:
        return None
    table = rich_lines(_title(heading), heading, (*heading.names, *COLUMNS), rows)
    table.caption = note(entries)
    return table


def markdown_times(heading: Heading, entries: Sequence[Entry]) -> str:
    """The same for a page; empty if no line has any."""
    rows = _rows(heading, entries)
    if not rows:
        return ""
    table = markdown_table((*heading.names, *COLUMNS), rows, "l" * (len(heading.names) - 1))
    return "\n".join([f"**{_title(heading)}**", "", *table, "", note(entries)]) + "\n"


def all_times(tables: Sequence[tuple[Heading, Sequence[Entry]]]) -> str:
    """`markdown_times` of several tables."""
    return "\n".join(text for heading, entries in tables if (text := markdown_times(heading, entries)))


def note(entries: Sequence[Entry]) -> str:
    """What stands below: how to read it, where it was measured, and why something is missing."""
    cells = [cost for entry in entries for cost in entry.costs]
    sizes = list(dict.fromkeys(str(cost.batch_size) for cost in cells))
    out = [
        f"medians of the clips, each its share of a batch ({' or '.join(sizes)} clips); encoder: when the features "
        "were made; whole: encoder, prefill and decoding; saved: of the full model's whole"
    ]
    if why := why_unknown(cells):
        out.append(f"{UNKNOWN}: {why}")
    if len(found := machines(cells)) == 1:
        out.append(f"for orientation, on {found[0].partition(': ')[2]}; fastadasp bench measures times")
    return "; ".join(out)


def _title(heading: Heading) -> str:
    part = f"; {heading.part}" if heading.part else ""
    return f"{heading.task.name}: time of a clip ({heading.clips} clips{part})"


def _rows(heading: Heading, entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """The lines that ran."""
    ran = [entry for entry in entries if entry.costs and entry.standing.value is not None]
    times = spent([(entry.standing.strategy == FULL, entry.costs) for entry in ran])
    out = []
    for entry, one in zip(ran, times, strict=True):
        out.append((*names_of(entry, heading.names), *texts(one, full=entry.standing.strategy == FULL)))
    return out


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known and len(known) == len(values) else None
