"""The figures of a line, as a reader sees them: the columns of every table of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from fastadasp.display import signed
from fastadasp.experiments import spread
from fastadasp.experiments.axes import FULL
from fastadasp.experiments.times import texts
from fastadasp.report.lines import Line

COLUMNS = {
    "strategy": "recipe, with what a study changed",
    "budget": "what was asked to be removed",
    "value": "the task's headline metric, mean over seeds, with its 95 % bootstrap interval",
    "difference": "to the baseline, with its paired 95 % bootstrap interval",
    "win/tie/loss": "clips better, equal, worse than under the baseline",
    "p (Holm)": "probability of such a difference if there were none, corrected for all comparisons on the task",
    "rank": "at this budget; equal ranks are not distinguishable",
    "audio tokens removed": "by the last layer",
    "FLOPs removed": "of the decoder's prefill",
    "net FLOPs": "the same less what the strategy computes itself; empty where it does not say",
    "KV removed": "bytes of keys and values after the prompt",
    "encoder": "time of a clip when its features were made, its share of its batch, median; -: not known (a run of an "
    "earlier version, stored features without their time, or vLLM, which encodes within the prefill)",
    "prefill": "time of a clip in the decoder, its share of its batch, median",
    "decode": "the same for all steps after it",
    "whole": "encoder, prefill and decoding; -: one of them is not known, or another machine did it",
    "saved": "of the full model's whole",
    "seeds": "how many",
}
"""Columns and what they mean."""

EVERY = {**COLUMNS, **spread.MEANING}
"""The same with those of budgets over all clips together."""

SHARES = ("audio_tokens_removed", "flops_removed", "flops_removed_net", "kv_removed")
"""Costs that are fractions, in the order of their columns."""


def columns_of(lines: Sequence[Line]) -> dict[str, str]:
    """The columns that these lines are shown with: `EVERY` where a budget is one of all clips together."""
    return EVERY if any(line.cost("threshold") is not None for line in lines) else COLUMNS


def row(line: Line) -> list[tuple[str, float | str | None]]:
    """A line's cells in the order of `EVERY`: the text, and what it is sorted by."""
    if line.value is None:
        nothing: list[tuple[str, float | str | None]] = [("", None)] * (len(EVERY) - 3)
        return [(line.name, line.name), (line.budget, _number(line.budget)), ("failed", None), *nothing]
    won = None if line.wins is None else f"{line.wins}/{line.ties}/{line.losses}"
    tied = "" if line.rank is None else str(line.rank)
    return [
        (line.name, line.name),
        (line.budget, _number(line.budget)),
        (f"{line.value:.2f}{_span(line.interval)}", line.value),
        (
            "" if line.difference is None else signed(line.difference, 2) + _span(line.difference_interval),
            line.difference,
        ),
        (won or "", line.wins),
        ("" if line.p_holm is None else f"{line.p_holm:.3f}" if line.p_holm >= 0.001 else "< 0.001", line.p_holm),
        (tied, line.rank),
        *((_percent(cost), cost) for cost in map(line.cost, SHARES)),
        *zip(texts(line.spent, full=line.strategy == FULL), astuple(line.spent), strict=True),
        (str(len(line.cells) - sum(cell.error is not None for cell in line.cells)), len(line.cells)),
        *_spread(line),
    ]


def times(line: Line) -> dict[str, float | None]:
    """What a clip took, in seconds, and the fraction of the whole that is saved, by names for other programs."""
    one = line.spent
    return {
        "encoder_clip_seconds": one.encoder,
        "prefill_clip_seconds": one.prefill,
        "decode_clip_seconds": one.decode,
        "whole_clip_seconds": one.whole,
        "whole_saved": one.saved,
    }


def _spread(line: Line) -> list[tuple[str, float | str | None]]:
    """What single clips lose, sorted by the mean over seeds; the worst clips by their metric."""
    done = [cell for cell in line.cells if cell.error is None]
    worst = [cell.worst for cell in done if cell.worst is not None]
    texts = spread.texts([cell.efficiency or {} for cell in done], worst)
    values = [line.cost(name) for name in ("threshold", "removed_most", "removed_deviation")]
    return list(zip(texts.values(), [*values, worst[0].value if worst else None], strict=True))


def _span(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.1%}"


def _number(budget: str) -> float | None:
    """A budget's fraction; the full model comes first. None for what is no number, in a run that was changed."""
    try:
        return -1.0 if budget == "-" else float(budget.rpartition("=")[2])
    except ValueError:
        return None
