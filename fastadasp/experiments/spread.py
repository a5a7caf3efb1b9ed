"""What single clips lose: columns of tables whose budget is one of all clips together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from fastadasp.experiments.records import Worst
from fastadasp.experiments.standings import Entry

NOTE = (
    "threshold: at which these clips together lose what the budget asks for; a clip loses: the least and the most of "
    "its audio tokens, s.d.: their standard deviation in points; worst clip: its metric by itself, and what it lost"
)

MEANING = {
    "threshold": "at which these clips together lose what the budget asks for",
    "a clip loses": "the least and the most of a clip's audio tokens",
    "s.d.": "standard deviation over the clips of that share, in points",
    "worst clip": "its metric by itself, and the share of its audio tokens that it lost",
}
"""What each column says, for people."""

Costs = Sequence[Mapping[str, Any]]
"""Of each seed what `Efficiency` has, by its names."""


def texts(costs: Costs, worst: Sequence[Worst]) -> dict[str, str]:
    """The columns in `MEANING` for the seeds of a line; empty where nothing is known."""
    thresholds, deviations = _known(costs, "threshold"), _known(costs, "removed_deviation")
    least, most = _known(costs, "removed_least"), _known(costs, "removed_most")
    return {
        "threshold": f"{fmean(thresholds):.4f}" if thresholds else "",
        "a clip loses": f"{min(least):.0%} to {max(most):.0%}" if least and most else "",
        "s.d.": f"{100 * fmean(deviations):.1f}" if deviations else "",
        "worst clip": "; ".join(dict.fromkeys(f"{one.id}: {one.value:.0f} (-{one.removed:.0%})" for one in worst)),
    }


def _known(costs: Costs, name: str) -> list[float]:
    return [cost[name] for cost in costs if cost.get(name) is not None]


def _column(name: str, entry: Entry) -> str:
    return texts([vars(cost) for cost in entry.costs], entry.worst)[name]


COLUMNS: dict[str, Callable[[Entry], str]] = {name: partial(_column, name) for name in MEANING}
"""What each column says of a line."""
