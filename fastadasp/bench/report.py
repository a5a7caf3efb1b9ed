"""Tables and pictures of benchmarks."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from fastadasp.bench.grid import FULL
from fastadasp.errors import RunError
from fastadasp.inference.machine import time_text

Row = dict[str, Any]


@cache
def paper() -> Row:
    """The content of ``paper.toml``."""
    return tomllib.loads(files(__package__).joinpath("paper.toml").read_text(encoding="utf-8"))


SETTING = ("shape", "dtype", "attention", "compiled", "batch", "beams", "new_tokens")
"""What rows share, beside the length of the audio, that may be set against each other."""
BUSY = 0.1
"""From which spread on a table says that its times are of little use."""
LESS = ("RTF", "tokens/s", "peak", "KV", "reduction", "ideal", "realised", "FLOPs removed", "speed-up", "encoder")
"""Columns of `model_table` that a narrow terminal does without, the first to go first."""


def model_table(rows: Sequence[Row]) -> Table:
    """Rows of one or more audio lengths and beams; times are for one recording."""
    first = rows[0]
    varied = {name: len({row[name] for row in rows}) > 1 for name in ("seconds", "beams")}
    columns = [
        "strategy", "budget", *("s" for _ in "x" if varied["seconds"]), *("beams" for _ in "x" if varied["beams"]),
        "encoder", "prefill", "decode", "whole", "\u00b1", "saved", "speed-up", "ideal", "realised", "FLOPs removed",
        "reduction", "tokens/s", "KV", "peak", "RTF",
    ]  # fmt: skip
    about_all = [first["shape"], first["dtype"], first["attention"]]
    if not varied["seconds"]:
        about_all.append(f"{first['seconds']:g} s of audio ({first['audio_tokens']} tokens)")
    about_all += [f"batch {first['batch']}"] * (first["batch"] > 1)
    about_all += [f"{first['beams']} beams"] * (not varied["beams"] and first["beams"] > 1)
    about_all += [f"{first['new_tokens']} new tokens"] + ["compiled decoding"] * first["compiled"]
    table = _table(", ".join(about_all), columns)
    for row in rows:
        each = row["batch"]
        cells = {
            "strategy": row["strategy"],
            "budget": row["budget"] or "-",
            "s": f"{row['seconds']:g}",
            "beams": str(row["beams"]),
            "encoder": time_text(row["encoder_s"] / each),
            "prefill": time_text(row["prefill_s"] / each),
            "decode": "" if row["decode_s"] is None else time_text(row["decode_s"] / each),
            "whole": time_text(row["whole_s"] / each),
            "\u00b1": f"{_spread(row):.0%}",
            "saved": "" if row["strategy"] == FULL else f"{row['whole_saved']:.0%}",
            "speed-up": f"{row['prefill_speedup']:.2f}x",
            "ideal": f"{row['ideal_speedup']:.2f}x",
            "realised": f"{row['realised']:.0%}",
            "FLOPs removed": f"{row['flops_removed']:.1%}",
            "reduction": "" if row["reduction_share"] is None else f"{row['reduction_share']:.1%}",
            "tokens/s": "" if row["decode_tokens_per_s"] is None else f"{row['decode_tokens_per_s']:.1f}",
            "KV": _bytes(row["kv_bytes"]),
            "peak": _bytes(row["peak_bytes"]),
            "RTF": f"{row['real_time_factor']:.4f}",
        }
        table.add_row(*(cells[name] for name in columns))
    table.caption = about(
        first,
        f"times of one recording: medians of {first['rounds']} interleaved rounds after warming up; \u00b1: half of "
        "what lies between their quartiles; whole: encoder, prefill and decoding; saved: of the full model's whole; "
        f"speed-up, ideal, realised: of the prefill{_busy(rows)}",
    )
    return table


def served_table(rows: Sequence[Row]) -> Table:
    """Rows of `fastadasp.bench.served`."""
    columns = (
        "strategy", "budget", "s", "at a time", "prompt", "requests/s", "ratio", "tokens/s", "first token",
        "last token",
    )  # fmt: skip
    table = _table(f"vLLM {rows[0]['versions']['vllm']}, {rows[0]['new_tokens']} new tokens a request", columns)
    for row in rows:
        table.add_row(
            row["strategy"],
            row["budget"] or "-",
            f"{row['seconds']:g}",
            str(row["concurrency"]),
            f"{row['prompt_tokens']:g}",
            f"{row['requests_per_s']:.3g} ({_pair(row['requests_per_s_quartiles'], 2).replace(' -> ', '-')})",
            f"{row['throughput_ratio']:.2f}x",
            f"{row['tokens_per_s']:.1f}",
            time_text(row["first_token_s"]),
            time_text(row["last_token_s"]),
        )
    table.caption = about(rows[0], f"medians of {rows[0]['rounds']} interleaved rounds, quartiles in brackets")
    return table


def operator_table(rows: Sequence[Row]) -> Table:
    """Rows of ``bench operator``."""
    columns = (
        "tokens", "hidden", "dtype", "scoring", "plan + merge", "released matrix", "released loop", "merge ratio",
        "operator ratio", "scoring memory", "of copy rate",
    )  # fmt: skip
    table = _table("one reduction of half the tokens, against the released way (one matrix, one loop)", columns)
    for row in rows:
        table.add_row(
            str(row["tokens"]),
            str(row["hidden"]),
            row["dtype"],
            time_text(row["score_s"]),
            time_text(row["merge_s"]),
            "too large" if row["released_score_s"] is None else time_text(row["released_score_s"]),
            time_text(row["released_merge_s"]),
            f"{row['merge_ratio']:.1f}x",
            "" if row["operator_ratio"] is None else f"{row['operator_ratio']:.1f}x",
            _bytes(row["score_bytes"]),
            f"{row['merge_bytes_per_s'] / row['copy_bytes_per_s']:.0%}",
        )
    table.caption = about(rows[0], "medians of interleaved rounds")
    return table


def paper_table(rows: Sequence[Row], shape: str) -> Table:
    """The paper's figures, and ours of the same length and beams beside them.

    Args:
        shape: the one that stands beside; rows of others are none of the paper's.
    """
    content = paper()
    title = f"{content['source']}: {content['model']}, the full model -> half of the audio tokens"
    table = _table(title, ("whose", "beams", "s", "RTF", "prefill s", "decode s", "tokens/s", "gain in tokens/s"))
    for row in content["rows"]:
        for line in _ours([one for one in rows if one["shape"] == shape], row):
            table.add_row(*line)
        rtf, prefill, decode, speed = row["rtf"], row["prefill_s"], row["decode_s"], row["tokens_per_s"]
        cells = (_pair(rtf, 3), _pair(prefill, 2), _pair(decode, 2), _pair(speed, 2), f"{speed[1] / speed[0]:.2f}x")
        table.add_row(f"paper, {row['gpu']}", str(row["beams"]), str(row["seconds"]), *cells)
    table.caption = (
        "the paper's figures were measured by its authors on their machines; ours with random weights of the shape "
        f"{shape}"
    )
    return table


def _ours(rows: Sequence[Row], like: Row) -> list[tuple[str, ...]]:
    here = [row for row in rows if (row["beams"], row["seconds"]) == (like["beams"], like["seconds"])]
    every = {_setting(row): row for row in here if row["strategy"] == FULL}
    out: list[tuple[str, ...]] = []
    for row in here:
        full = every.get(_setting(row))
        if full is None or row["strategy"] == FULL or row["decode_s"] is None:
            continue
        speed = (full["decode_tokens_per_s"], row["decode_tokens_per_s"])
        whose = f"ours, {row['strategy']}{', compiled' if row['compiled'] else ''}"
        out.append(
            (
                whose, str(row["beams"]), f"{row['seconds']:g}",
                _pair((full["real_time_factor"], row["real_time_factor"]), 3),
                _pair((full["prefill_s"], row["prefill_s"]), 2), _pair((full["decode_s"], row["decode_s"]), 2),
                _pair(speed, 2), f"{speed[1] / speed[0]:.2f}x",
            )
        )  # fmt: skip
    return out


def _setting(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in SETTING)


def lines(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each line of a picture, by its label: a strategy at a budget in one setting, over the lengths."""
    varied = [name for name in SETTING if len({row[name] for row in rows}) > 1]
    words: dict[str, Callable[[Any], str]] = {
        "compiled": lambda value: "compiled" if value else "not compiled",
        "batch": lambda value: f"batch {value}",
        "beams": lambda value: f"{value} beam{'s' if value > 1 else ''}",
        "new_tokens": lambda value: f"{value} new token{'s' if value > 1 else ''}",
    }
    out: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["seconds"]):
        name = row["strategy"] if row["budget"] is None else f"{row['strategy']} {row['budget']}"
        out.setdefault(", ".join([name, *(words.get(key, str)(row[key]) for key in varied)]), []).append(row)
    return out


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Time and memory against the length of the audio. Raises RunError if the picture cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    figures: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
        ("prefill, seconds", lambda row: row["prefill_s"] / row["batch"]),
        ("whole (encoder, prefill, decoding), seconds", lambda row: row["whole_s"] / row["batch"]),
        ("peak memory, GiB", lambda row: None if row["peak_bytes"] is None else row["peak_bytes"] / 2**30),
    )
    for label, own in lines(rows).items():
        for axes, (_, value) in zip(panels, figures, strict=True):
            points = [(row["seconds"], value(row)) for row in own]
            known = [(x, y) for x, y in points if y is not None]
            axes.plot([x for x, _ in known], [y for _, y in known], "o-", label=label, clip_on=False, zorder=3)
    longest = max(row["seconds"] for row in rows)
    for axes, (title, _) in zip(panels, figures, strict=True):
        axes.set_xlabel("seconds of audio")
        axes.set_title(title, fontsize=10)
        axes.set_xlim(0, 1.06 * longest)  # room for the last point, which would be cut at the edge
        axes.set_ylim(0, 1.08 * axes.dataLim.y1 if axes.dataLim.y1 > 0 else 1.0)
        axes.grid(alpha=0.3)
    about_all = [rows[0][name] for name in ("shape", "dtype", "device") if len({row[name] for row in rows}) == 1]
    figure.suptitle(", ".join([*about_all, "medians of one recording"]), fontsize=9)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), fontsize=8, frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise RunError(f"--plot {path} cannot be written: {getattr(error, 'strerror', None) or error}") from None


def about(row: Row, more: str) -> str:
    """What stands below a table: the machine, and how it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    threads = "" if row["threads"] is None else f", {row['threads']} thread(s)"
    return f"{row['device']} ({row['clocks']}{threads}); {versions}; {more}"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 1, 0, 0)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place > 1 else "left", no_wrap=True)
    return table


def _busy(rows: Sequence[Row]) -> str:
    """A warning where rounds differ by more than most savings."""
    if max(map(_spread, rows)) <= BUSY:
        return ""
    return (
        f"; rounds differ by more than {BUSY:.0%} of the whole, so something else was running: measure alone, or with "
        "more --rounds"
    )


def _spread(row: Row) -> float:
    """Half of what lies between the quartiles of the parts, as a share of the whole."""
    parts = [row["encoder_quartiles_s"], row["prefill_quartiles_s"], row["decode_quartiles_s"] or (0.0, 0.0)]
    return float(sum(high - low for low, high in parts) / 2 / row["whole_s"])


def _pair(values: Sequence[float], digits: int) -> str:
    return f"{values[0]:.{digits}f} -> {values[1]:.{digits}f}"


def _bytes(count: int | None) -> str:
    if count is None:
        return ""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
