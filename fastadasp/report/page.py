"""The page: one HTML file that needs nothing beside it."""

from __future__ import annotations

from typing import Any

from fastadasp.report import clips, timeline
from fastadasp.report.figures import columns_of, row
from fastadasp.report.report import SAME, Report
from fastadasp.report.shell import render


def html(report: Report, title: str = "fastadasp report") -> str:
    """The report as a page. Whatever comes from runs is escaped; numbers for the script are in one JSON block."""
    columns = columns_of(report.lines)
    return render(
        "page.html",
        _data(report),
        title=title,
        report=report,
        same=SAME,
        differing=report.differing(),
        columns=columns,
        tables=_tables(report, len(columns)),
        several=len(report.sources) > 1,
    )


def _tables(report: Report, columns: int) -> list[dict[str, Any]]:
    """A table a task: of each line its first cells, as (text, number to sort by)."""
    out = []
    for task in dict.fromkeys(line.task for line in report.lines):
        lines = [line for line in report.lines if line.task == task]
        rows = [(report.letter(line.run), row(line)[:columns], line.errors) for line in lines]
        out.append({"task": task, "metric": lines[0].metric, "rows": rows})
    return out


def _data(report: Report) -> dict[str, Any]:
    """What the script draws from."""
    lines = [
        {
            "run": report.letter(line.run),
            "task": line.task,
            "strategy": line.strategy,
            "name": line.name,
            "axes": line.axes,
            "budget": line.budget,
            "metric": line.metric,
            "value": line.value,
            "interval": line.interval,
            "flops": line.cost("flops_removed"),
            "net": line.cost("flops_removed_net"),
            "kv": line.cost("kv_removed"),
            "tokens": line.cost("audio_tokens_removed"),
            "prefill": line.spent.prefill,
            "whole": line.spent.whole,
            "better": _better(report, line.task),
        }
        for line in report.lines
    ]
    pictures = {number for number, _ in report.timelines}
    shown = []
    for number, clip in enumerate(report.clips):
        wave = clip.wave if number in pictures else None
        image = None if wave is None else timeline.picture(wave, clips.RATE)
        shown.append(clips.plain(clip) | {"run": report.letter(clip.run), "picture": image})
    followed = [[clip, line, timeline.plain(one)] for (clip, line), one in report.timelines.items()]
    return {"lines": lines, "clips": shown, "timelines": followed}


def _better(report: Report, task: str) -> str | None:
    """Which way a task's metric is better: ``up``, ``down``; None if the task is not installed here."""
    from fastadasp.report.lines import known_tasks

    for source in report.sources:
        found = known_tasks(source).get(task)
        if found is not None:
            return "up" if found.higher_is_better else "down"
    return None
