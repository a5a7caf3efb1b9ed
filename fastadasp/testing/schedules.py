"""The check of schedules."""

from __future__ import annotations

from fastadasp.contracts.components import Schedule
from fastadasp.counts.budget import Budget
from fastadasp.errors import StrategyError
from fastadasp.testing.component import component
from fastadasp.testing.failure import Subject

DEPTHS = (1, 2, 3, 12, 32)
RATIOS = tuple(step / 20 for step in range(20))
BUDGETS = (0.1, 0.3, 0.5, 0.7)
NEAR = 1e-6
"""How far a ``tokens`` budget may be missed."""


def check_schedule(schedule: Schedule | type[Schedule] | str) -> None:
    """Checks that a schedule keeps its contract.

    For models of 1 to 32 layers, every start layer and ratios from 0 to 0.95 it gives a fraction in [0, 1) for each
    layer, nothing before the start layer, the same every time, and never less for a larger ratio; and a budget of the
    audio tokens is met where the schedule can remove that much.

    Args:
        schedule: an object, a class (made with its defaults) or an installed name.

    Raises:
        ConformanceError: it does not.
    """
    made, subject = component("schedule", schedule, Schedule)
    for layers in DEPTHS:
        for start in range(layers):
            before = (0.0,) * layers
            for ratio in RATIOS:
                before = _check_ratios(subject, made, ratio, start, layers, before)
    _check_budgets(subject, made)


def _check_ratios(
    subject: Subject, schedule: Schedule, ratio: float, start: int, layers: int, before: tuple[float, ...]
) -> tuple[float, ...]:
    subject = subject.when(f"ratios(ratio={ratio}, start={start}, num_layers={layers})")
    ratios = subject.call(f"{layers} fractions", schedule.ratios, ratio, start, layers)
    good = isinstance(ratios, tuple) and all(type(r) in (int, float) for r in ratios)
    subject.expect(good, repr(ratios), "a tuple of plain floats")
    subject.expect(len(ratios) == layers, f"{len(ratios)} fractions: {ratios}", f"{layers} fractions, one a layer")
    subject.expect(all(0 <= r < 1 for r in ratios), repr(ratios), "fractions in [0, 1)")
    subject.expect(not any(ratios[:start]), repr(ratios), f"0 before the start layer {start}")
    again = schedule.ratios(ratio, start, layers)
    subject.expect(ratios == again, f"{ratios}, then {again}", "the same every time")
    rising = all(more >= less for less, more in zip(before, ratios, strict=True))
    subject.expect(
        rising, f"{ratios}, after {before} for a smaller ratio", "fractions that do not fall as the ratio rises"
    )
    for tokens in (0, 1, 77):
        counts = schedule.counts(tokens, ratio, start, layers)
        at = subject.when(f"counts(tokens={tokens}, ratio={ratio}, start={start}, num_layers={layers})")
        if counts is not None:
            falls = all(0 <= b <= a <= tokens for a, b in zip((tokens, *counts), counts, strict=False))
            good = len(counts) == layers and falls and all(n == tokens for n in counts[:start])
            at.expect(good, repr(counts), f"{layers} counts that do not rise, {tokens} before the start layer, or None")
    leaves = schedule.exit_layer(start, layers)
    at = subject.when(f"exit_layer(start={start}, num_layers={layers})")
    at.expect(leaves is None or start < leaves < layers, repr(leaves), f"None, or a layer from {start + 1} on")
    return ratios


def _check_budgets(subject: Subject, schedule: Schedule) -> None:
    met, refused = 0, ""
    for layers, start in ((12, 1), (32, 2)):
        for goal in BUDGETS:
            at = subject.when(
                f"looked for the ratio that removes {goal} of the tokens from layer {start} of {layers} on"
            )
            try:
                ratio = Budget(tokens=goal).ratio_for(schedule, start, layers)
            except StrategyError as error:
                refused = str(error)
                continue
            left = 1.0
            for fraction in schedule.ratios(ratio, start, layers):
                left *= 1 - fraction
            at.expect(abs(1 - left - goal) <= NEAR, f"{1 - left:.6g} removed at ratio {ratio:.6g}", f"{goal} removed")
            met += 1
    tried = f"looked for ratios that remove {', '.join(map(str, BUDGETS))} of the tokens"
    subject.when(tried).expect(met > 0, refused, "a ratio for at least one of them")
