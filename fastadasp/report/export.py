"""A report's tables for other programs: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

from fastadasp.report.figures import COLUMNS, row
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
    "kv_removed",
    "prefill_seconds",
    "decode_seconds",
)
"""Numbers of a line in CSV; fractions as fractions, nothing rounded."""


def markdown(report: Report) -> str:
    """A table a task."""
    out = []
    for task, rows in _by_task(report).items():
        out += [f"**{task}**", "", _line(_head(report)), "|" + "---|" * len(_head(report))]
        out += [_line([text.replace("|", "\\|") for text in texts]) for texts in rows] + [""]
    return "\n".join([*out, *(f"- {note}" for note in report.notes)]).rstrip() + "\n"


def latex(report: Report) -> str:
    """A ``tabular`` a task, with booktabs rules."""
    head = _head(report)
    out = []
    for task, rows in _by_task(report).items():
        left = 2 + (len(report.sources) > 1)
        columns = "l" * left + "r" * (len(head) - left)
        out += [f"% {' '.join(task.split())}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        out += [" & ".join(map(_tex, head)) + r" \\", r"\midrule"]
        out += [" & ".join(map(_tex, texts)) + r" \\" for texts in rows]
        out += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(out)


def table(report: Report) -> str:
    """CSV with a line for each recipe, budget and task."""
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
            **{name: line.cost(name) for name in ("audio_tokens_removed", "flops_removed", "kv_removed")},
        }
        seeds = " ".join(str(cell.seed) for cell in line.cells)
        head = [report.letter(line.run), str(report.sources[line.run].folder), line.task, line.strategy]
        values = [numbers[name] if name in numbers else getattr(line, name) for name in _PLAIN]
        changed, errors = [line.axes.get(axis, "") for axis in axes], "; ".join(line.errors)
        writer.writerow([*head, *changed, line.budget, seeds, line.metric, *values, errors])
    return out.getvalue()


FORMATS: dict[str, Callable[[Report], str]] = {".md": markdown, ".csv": table, ".tex": latex}
"""By the ending of the file."""


def _head(report: Report) -> list[str]:
    return [*(["run"] if len(report.sources) > 1 else []), *COLUMNS]


def _by_task(report: Report) -> dict[str, list[list[str]]]:
    out: dict[str, list[list[str]]] = {}
    for line in report.lines:
        texts = [text for text, _ in row(line)]
        title = f"{line.task} ({line.metric})"
        out.setdefault(title, []).append([*([report.letter(line.run)] if len(report.sources) > 1 else []), *texts])
    return out


def _line(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
_TEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in text)
