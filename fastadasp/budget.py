"""The budget: how much of the audio to remove, always as the fraction REMOVED."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from numbers import Real
from typing import Any

from pydantic import BaseModel, ConfigDict, model_serializer, model_validator

from fastadasp.checks import did_you_mean
from fastadasp.components import Schedule
from fastadasp.errors import StrategyError

_TOLERANCE = 1e-9


class Budget(BaseModel):
    """Exactly one of two fractions, each above 0 and below 1.

    Attributes:
        tokens: the fraction of the audio tokens gone by the last layer, whatever the schedule.
        ratio: the schedule's own r, as papers give it.

    Written as ``0.5`` (tokens), ``"tokens=0.5"`` or ``"ratio=0.3"``, as text or number; read by `Budget.of`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: float | None = None
    ratio: float | None = None

    @classmethod
    def of(cls, value: Any) -> Budget:
        """A budget from a number, a text, a mapping or a budget. Raises StrategyError in plain words."""
        return cls.model_validate(value)

    def __str__(self) -> str:
        return f"ratio={self.ratio!r}" if self.tokens is None else repr(self.tokens)

    def ratio_for(self, schedule: Schedule, start: int, num_layers: int) -> float:
        """The schedule's r that meets this budget in a model of `num_layers`, acting from layer `start` on.

        Raises:
            StrategyError: the schedule cannot remove that much; says how much it can.
        """
        if self.tokens is None:
            return self.ratio or 0.0  # one of the two is always set
        try:
            return _solve(self.tokens, schedule, start, num_layers)
        except TypeError:  # a schedule with a list among its parameters has no hash
            return _solve.__wrapped__(self.tokens, schedule, start, num_layers)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return value if isinstance(value, Budget) else _fields(value)

    @model_serializer
    def _write(self) -> float | dict[str, float | None]:
        return {"ratio": self.ratio} if self.tokens is None else self.tokens


def _fields(value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        given = {key: number for key, number in value.items() if number is not None}
        for key in given:
            if key not in ("tokens", "ratio"):
                guess = did_you_mean(str(key), ("tokens", "ratio"))
                raise StrategyError(f"budget has no field {key!r}.{guess} Fields: tokens or ratio")
        if len(given) != 1:
            wrong = "not both" if given else "one of them is needed"
            raise StrategyError(f"budget is given either as tokens or as ratio, {wrong}")
        ((key, number),) = given.items()
        return {key: _fraction(number, f"budget {key}" if key == "ratio" else "budget")}
    if isinstance(value, str) and "=" in value:
        key, _, text = value.partition("=")
        return _fields({key.strip(): text.strip()})
    return {"tokens": _fraction(value, "budget")}


def _fraction(value: Any, what: str) -> float:
    number = math.nan
    if isinstance(value, Real | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if not 0 < number < 1:
        raise StrategyError(f"{what} is the fraction removed: a number above 0 and below 1, not {value!r}")
    return number


@lru_cache(maxsize=256)  # the engine asks for every prompt
def _solve(goal: float, schedule: Schedule, start: int, num_layers: int) -> float:
    def removed(ratio: float) -> float:
        return _removed(schedule, ratio, start, num_layers)

    where = f"schedule {schedule.name!r} from layer {start} of {num_layers}"
    low, high = 0.0, math.nextafter(1.0, 0.0)
    if (most := removed(high)) < goal - _TOLERANCE:
        raise StrategyError(
            f"budget {goal!r} cannot be met: {where} removes at most {_floor(most)} of the audio tokens"
        )
    if (least := removed(low)) > goal + _TOLERANCE:
        raise StrategyError(
            f"budget {goal!r} cannot be met: {where} removes {least:.4g} of the tokens already at ratio 0"
        )
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if removed(middle) < goal else (low, middle)
    # The neat neighbour first: token counts are cut from this number, and 0.49999999999999994 is one short.
    for ratio in (round(high, 12), high, low):
        if 0 < ratio < 1 and abs(removed(ratio) - goal) <= _TOLERANCE:
            return ratio
    raise StrategyError(
        f"budget {goal!r} cannot be met: {where} jumps from {removed(low):.4g} to {removed(high):.4g} of the "
        "audio tokens; set a ratio instead"
    )


def _removed(schedule: Schedule, ratio: float, start: int, num_layers: int) -> float:
    ratios = schedule.ratios(ratio, start, num_layers)
    if len(ratios) != num_layers or not all(0 <= r < 1 for r in ratios):
        raise StrategyError(
            f"schedule {schedule.name!r} is faulty: for ratio {ratio:.4g}, start {start} and {num_layers} layers "
            f"it must give {num_layers} fractions in [0, 1), but gave {tuple(ratios)!r}"
        )
    return 1 - math.prod(1 - r for r in ratios)


def _floor(fraction: float) -> str:
    """Cut, not rounded, so that the figure shown can be met."""
    return f"{math.floor(fraction * 1e4 + 1e-6) / 1e4:g}"
