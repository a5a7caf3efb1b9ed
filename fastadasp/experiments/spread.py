"""What single clips lose: columns of tables whose budget is one of all clips together."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from fastadasp.experiments.standings import Entry

NOTE = (
    "threshold: at which these clips together lose what the budget asks for; a clip loses: the least and the most of "
    "its audio tokens, s.d.: their standard deviation in points; worst clip: its metric by itself, and what it lost"
)


def _spread(entry: Entry) -> str:
    least, most = (
        [part for cost in entry.costs if (part := getattr(cost, name)) is not None]
        for name in ("removed_least", "removed_most")
    )
    return f"{min(least):.0%} to {max(most):.0%}" if least and most else ""


def _deviation(entry: Entry) -> str:
    known = [cost.removed_deviation for cost in entry.costs if cost.removed_deviation is not None]
    return f"{100 * fmean(known):.1f}" if known else ""


def _threshold(entry: Entry) -> str:
    known = [cost.threshold for cost in entry.costs if cost.threshold is not None]
    return f"{fmean(known):.4f}" if known else ""


def _worst(entry: Entry) -> str:
    return "; ".join(dict.fromkeys(f"{one.id}: {one.value:.0f} (-{one.removed:.0%})" for one in entry.worst))


COLUMNS: dict[str, Callable[[Entry], str]] = {
    "threshold": _threshold,
    "a clip loses": _spread,
    "s.d.": _deviation,
    "worst clip": _worst,
}
"""What each column says of a line."""
