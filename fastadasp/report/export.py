"""A report's tables for other programs: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastadasp.display import markdown_table
from fastadasp.errors import RunError
from fastadasp.report.figures import EVERY, SHARES, columns_of, row, times
from fastadasp.report.lines import Line, known_tasks
from fastadasp.report.report import Report

_PLAIN = (
    "value",
    "interval_low",
    "interval_high",
    "baseline",
    "difference",
    "difference_low",
    "difference_high",
    "wins",
    "ties",
    "losses",
    "p_holm",
    "rank",
    "audio_tokens_removed",
    "flops_removed",
    "flops_removed_net",
    "kv_removed",
    "removed_deviation",
    "removed_least",
    "removed_most",
    "threshold",
    "worst_clip",
    "worst_value",
    "worst_removed",
    "prefill_seconds",
    "decode_seconds",
    "encoder_clip_seconds",
    "prefill_clip_seconds",
    "decode_clip_seconds",
    "whole_clip_seconds",
    "whole_saved",
)
"""Numbers of a line in CSV; fractions as fractions, nothing rounded."""

_SPREAD = ("removed_deviation", "removed_least", "removed_most", "threshold")


NARROW = ("strategy", "budget", "value", "difference", "FLOPs removed")
"""Columns of a LaTeX table unless others are asked for: they fit a column of a paper."""


@dataclass(frozen=True)
class Wanted:
    """What a table for a page or a paper is to have.

    Attributes:
        columns: names in `EVERY`; None for those that the report's page has, in LaTeX for `NARROW`.
        caption, label: of a LaTeX table; with several tasks the label gets the task's name behind it.
    """

    columns: tuple[str, ...] | None = None
    caption: str = ""
    label: str = ""


def find_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Columns by their names or the beginnings of these, e.g. ``flops``. Raises RunError."""
    out = []
    for name in names:
        found = [column for column in EVERY if column.lower() == name.lower()]
        found = found or [column for column in EVERY if column.lower().startswith(name.lower())]
        if len(found) != 1:
            raise RunError(f"there is no column {name!r}; there are {', '.join(EVERY)}")
        out.append(found[0])
    return tuple(dict.fromkeys(out))


def markdown(report: Report, wanted: Wanted | None = None) -> str:
    """A table a task. What stands in a run's files is text here, never markup."""
    columns = (wanted or Wanted()).columns or tuple(columns_of(report.lines))
    out = []
    for title, lines in _by_task(report).items():
        head = _head(report, columns)
        rows = ([_md(text) for text in _texts(report, line, columns)] for line in lines)
        out += [f"**{_md(title)}**", "", *markdown_table(head, rows, "l" * len(head)), ""]
    return "\n".join([*out, *(f"- {_md(note)}" for note in report.notes)]).rstrip() + "\n"


def latex(report: Report, wanted: Wanted | None = None) -> str:
    """A ``table`` with booktabs rules for each task; the best value at each budget is bold."""
    wanted = wanted or Wanted()
    columns = wanted.columns or NARROW
    groups = _by_task(report)
    out = list[str]()
    for title, lines in groups.items():
        head, best = _head(report, columns), _best(report, lines)
        left = len([name for name in head if name in ("run", "strategy", "budget")])
        caption = f"{wanted.caption} ({title})" if wanted.caption and len(groups) > 1 else wanted.caption or title
        name = _label(wanted.label or "fastadasp", title.split(" (")[0] if len(groups) > 1 or not wanted.label else "")
        out += [
            f"% {' '.join(title.split())}; needs \\usepackage{{booktabs}}",
            r"\begin{table}[t]",
            r"\centering",
            r"\small",
            r"\setlength{\tabcolsep}{4pt}",
        ]
        out += [rf"\caption{{{_tex(caption)}}}", rf"\label{{tab:{name}}}"]
        out += [rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(head) - left)}}}", r"\toprule"]
        metric = lines[0].metric
        out += [" & ".join(_tex(metric if name == "value" else name) for name in head) + r" \\", r"\midrule"]
        for place, line in enumerate(lines):
            texts = [_tex_span(_tex(text)) for text in _texts(report, line, columns)]
            if place in best and "value" in columns:
                at = head.index("value")
                number, space, span = texts[at].partition(" ")
                texts[at] = rf"\textbf{{{number}}}{space}{span}"
            out.append(" & ".join(texts) + r" \\")
        out += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(out)


def table(report: Report, wanted: Wanted | None = None) -> str:
    """CSV with a line for each recipe, budget and task, and every number; text that a spreadsheet would compute is
    quoted with an apostrophe."""
    axes = list(dict.fromkeys(axis for line in report.lines for axis in line.axes))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "folder", "task", "strategy", *axes, "budget", "seeds", "metric", *_PLAIN, "error"])
    for line in report.lines:
        numbers = {
            "interval_low": None if line.interval is None else line.interval[0],
            "interval_high": None if line.interval is None else line.interval[1],
            "difference_low": None if line.difference_interval is None else line.difference_interval[0],
            "difference_high": None if line.difference_interval is None else line.difference_interval[1],
            **{name: line.cost(name) for name in (*SHARES, *_SPREAD)},
            **_worst(line),
            **times(line),
        }
        seeds = " ".join(str(cell.seed) for cell in line.cells)
        head = [report.letter(line.run), str(report.sources[line.run].folder), line.task, line.strategy]
        values = [numbers[name] if name in numbers else getattr(line, name) for name in _PLAIN]
        changed, errors = [line.axes.get(axis, "") for axis in axes], "; ".join(line.errors)
        cells = [*head, *changed, line.budget, seeds, line.metric, *values, errors]
        writer.writerow([_csv(cell) if isinstance(cell, str) else cell for cell in cells])
    return out.getvalue()


FORMATS: dict[str, Callable[[Report, Wanted], str]] = {".md": markdown, ".csv": table, ".tex": latex}
"""By the ending of the file."""


def _worst(line: Line) -> dict[str, str | float | None]:
    """The worst clip of the line's first seed."""
    worst = next((cell.worst for cell in line.cells if cell.worst is not None), None)
    if worst is None:
        return dict.fromkeys(("worst_clip", "worst_value", "worst_removed"))
    return {"worst_clip": _csv(worst.id), "worst_value": worst.value, "worst_removed": worst.removed}


def _head(report: Report, columns: Sequence[str]) -> list[str]:
    return [*(["run"] if len(report.sources) > 1 else []), *columns]


def _by_task(report: Report) -> dict[str, list[Line]]:
    out: dict[str, list[Line]] = {}
    for line in report.lines:
        out.setdefault(f"{line.task} ({line.metric})", []).append(line)
    return out


def _texts(report: Report, line: Line, columns: Sequence[str]) -> list[str]:
    texts = dict(zip(EVERY, (text for text, _ in row(line)), strict=True))
    run = [report.letter(line.run)] if len(report.sources) > 1 else []
    return [*run, *(texts[name] for name in columns)]


def _best(report: Report, lines: Sequence[Line]) -> set[int]:
    """Places of the lines with the best value at their budget, the full model apart; equal ones all count."""
    higher = next((task.higher_is_better for source in report.sources for name, task in known_tasks(source).items()
                   if lines and name == lines[0].task), None)  # fmt: skip
    best: dict[str, float] = {}
    if higher is None:
        return set()
    usable = [(i, line) for i, line in enumerate(lines) if line.value is not None and line.budget != "-"]
    for _, line in usable:
        value = float(line.value if higher else -line.value)  # type: ignore[operator,arg-type]
        best[line.budget] = max(best.get(line.budget, value), value)
    return {i for i, line in usable if abs(float(line.value or 0.0)) == abs(best[line.budget])}


def _md(text: str) -> str:
    """Text as Markdown shows it as it is, in one line."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return escaped.replace("|", "\\|")


def _csv(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text != "-" and text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _label(name: str, task: str) -> str:
    return "".join(c if c.isalnum() or c in "-:" else "-" for c in f"{name}-{task}".strip("-"))


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
_TEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in " ".join(text.split()))


def _tex_span(text: str) -> str:
    """An interval behind a value, small."""
    number, bracket, rest = text.partition(" (")
    if not bracket or " to " not in rest:
        return text
    low, _, high = rest.rstrip(")").partition(" to ")
    return rf"{number} {{\scriptsize [{low}, {high}]}}"
