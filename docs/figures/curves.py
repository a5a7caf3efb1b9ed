"""The measured curves: `curves.csv`, and a picture of each strategy's."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import mean
from typing import Any

from drawing import Picture

HERE = Path(__file__).parent
METRICS = {"asr": ("wer", "WER, %", 35.0, 0.0), "er": ("accuracy", "accuracy, %", 50.0, 100.0)}
"""Metric of each task that is drawn, its label, and the worst and the best value of the axis."""
NAMES = {"asr-72": "asr"}
"""What a task's curve is called where it is not the task's name: the clips are those of version 0.1."""
FIELDS = ("strategy", "task", "budget", "value", "low", "high", "flops_removed", "kv_removed")
Rows = dict[tuple[str, str], list[dict[str, Any]]]


def write_curves(results: list[Path], anew: bool = False) -> None:
    """curves.csv: quality (percent; mean over seeds) and what was removed (fractions), by strategy, task and budget.

    What the folders have takes the place of what stood there, but for the full model; other rows stay. With `anew` no
    row stays.
    """
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for folder in results:
        for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines():
            cell = json.loads(line)
            task = NAMES.get(cell["task"], cell["task"])
            if task in METRICS and cell["error"] is None:
                cells.setdefault((cell["strategy"], task, cell["budget"] or ""), []).append(cell)
    with (HERE / "curves.csv").open(encoding="utf-8", newline="") as file:
        lines = {tuple(row[:3]): row for row in csv.reader(file) if row[0] != FIELDS[0] and not anew}
    cells = {key: seeds for key, seeds in cells.items() if key[0] != "full" or key not in lines}
    with (HERE / "curves.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(FIELDS)
        for key, seeds in cells.items():
            values = [
                [cell["metrics"][METRICS[key[1]][0]] for cell in seeds],
                *(
                    [(cell["interval"] or [cell["metrics"][METRICS[key[1]][0]]] * 2)[i] for cell in seeds]
                    for i in (0, 1)
                ),
                *([100 * cell["efficiency"][name] for cell in seeds] for name in FIELDS[-2:]),
            ]
            shown = [f"{mean(v):.1f}" for v in values[:3]] + [f"{mean(v) / 100:.3f}" for v in values[3:]]
            lines[key] = [*key, *shown]
        table.writerows(sorted(lines.values(), key=lambda row: (row[0] != "full", row)))


def read_curves() -> Rows:
    """The rows of curves.csv by strategy and task, in order of budget."""
    rows: Rows = {}
    with (HERE / "curves.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault((row["strategy"], row["task"]), []).append(
                {k: float(v) if k in FIELDS[3:] else v for k, v in row.items()}
            )
    return rows


def removed_by(rows: list[dict[str, Any]]) -> str:
    """The column of what these rows were asked to remove."""
    return "kv_removed" if rows[0]["budget"].startswith("kv") else "flops_removed"


def draw(name: str, rows: Rows) -> str:
    """Quality over what was removed, one panel a task."""
    picture = Picture(640, 190, f"{name}: quality against what is removed")
    removed = removed_by(rows[name, "asr"])
    for panel, (task, (_, label, bottom, top)) in enumerate(METRICS.items()):
        left, right, high, low = 44 + panel * 325, 300 + panel * 325, 24, 150

        def x(fraction: float, left: float = left, right: float = right) -> float:
            return left + (right - left) * fraction / 0.55

        def y(value: float, bottom: float = bottom, top: float = top, high: float = high, low: float = low) -> float:
            inside = min(max(value, min(bottom, top)), max(bottom, top))
            return low + (high - low) * (inside - bottom) / (top - bottom)

        picture.text(left, 14, f"{task}: {label}{'' if (name, task) in rows else ', not measured'}", "soft")
        for tick in (0, 10, 20, 30) if task == "asr" else (50, 60, 70, 80, 90, 100):
            picture.line([(left, y(tick)), (right, y(tick))], "faint", 0.6)
            picture.text(left - 6, y(tick) + 4, tick, "soft", "end")
        for tick in (0, 10, 20, 30, 40, 50):
            picture.text(x(tick / 100), low + 16, tick, "soft", "middle")
        words = "KV bytes removed, %" if removed == "kv_removed" else "prefill FLOPs removed, %"
        picture.text((left + right) / 2, low + 32, words, "soft", "middle")
        full = y(rows["full", task][0]["value"])
        picture.line([(left, full), (right, full)], "line", 1)
        if removed == "flops_removed" and name != "uniform":
            points = [(x(r[removed]), y(r["value"])) for r in rows["uniform", task]]
            picture.line([(left, full), *points], "b", 1.3, "4 3")
        own = [r for r in rows.get((name, task), []) if min(top, bottom) <= r["value"] <= max(top, bottom)]
        start = [(left, full)] if name != "weighted+h2o" else []
        picture.line([*start, *((x(r[removed]), y(r["value"])) for r in own)], "a", 2)
        for row in own:
            place = x(row[removed])
            picture.line([(place, y(row["low"])), (place, y(row["high"]))], "a", 1)
            picture.add("circle", cx=place, cy=y(row["value"]), r=3, cls="fa")
    return picture.svg()
