"""The budget: how much to remove, always as the fraction REMOVED."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from numbers import Real
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, model_serializer, model_validator

from fastadasp.contracts.components import Schedule
from fastadasp.errors import StrategyError, did_you_mean

BudgetKind = Literal["tokens", "flops", "kv", "ratio", "mean-tokens", "mean-flops"]
KINDS: tuple[BudgetKind, ...] = get_args(BudgetKind)

_TOLERANCE = 1e-9


class Budget(BaseModel):
    """Exactly one of six fractions, each above 0 and below 1.

    Attributes:
        tokens: the fraction of the audio tokens gone by the last layer, whatever the schedule.
        flops: the fraction of the decoder's prefill FLOPs removed, each prompt by itself (`DecoderShape.layer_flops`).
        kv: the fraction of the bytes of keys and values removed, each prompt by itself.
        ratio: the schedule's own r, as papers give it.
        mean_tokens, mean_flops: the fraction of the audio tokens, or FLOPs, of all clips of a run together. Content
            decides what each clip loses, by one threshold for all of them (`Recipe.follows_content`).

    Written as ``0.5`` (tokens), ``"flops=0.5"``, ``"kv=0.5"``, ``"ratio=0.3"``, ``"mean-tokens=0.3"`` or
    ``"mean-flops=0.3"``, as text or number; read by `Budget.of`. ``flops`` and ``kv`` depend on the model and the
    prompt: `Strategy.solve` finds their r. The last two depend on the run, and a comparison finds their threshold.

    Example::

        >>> fastadasp.Budget.of("flops=0.5").kind
        'flops'
        >>> fastadasp.Budget.of(0.3).tokens
        0.3
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: float | None = None
    flops: float | None = None
    kv: float | None = None
    ratio: float | None = None
    mean_tokens: float | None = None
    mean_flops: float | None = None

    @classmethod
    def of(cls, value: Any) -> Budget:
        """A budget from a number, a text, a mapping or a budget. Raises StrategyError in plain words."""
        return cls.model_validate(value)

    @classmethod
    def several(cls, values: Iterable[Any]) -> list[Budget]:
        """A list of budgets in which a text's prefix holds until the next: ``["flops=0.1", "0.2", "tokens=0.5"]``."""
        prefix, budgets = "", []
        for value in values:
            if isinstance(value, str):
                key, equals, _ = value.rpartition("=")
                prefix = key + equals or prefix
                value = value if equals else prefix + value
            budgets.append(cls.of(value))
        return budgets

    @property
    def kind(self) -> BudgetKind:
        """Which of the fractions is given."""
        return next(kind for kind in KINDS if getattr(self, kind.replace("-", "_")) is not None)

    @property
    def fraction(self) -> float:
        """The fraction given."""
        return float(getattr(self, self.kind.replace("-", "_")))

    @property
    def per_prompt(self) -> bool:
        """Whether the schedule's r depends on the prompt's lengths and the model's sizes."""
        return self.kind in ("flops", "kv")

    @property
    def over_run(self) -> bool:
        """Whether it speaks of all clips of a run together, so that no single prompt can meet or miss it."""
        return self.kind.startswith("mean-")

    def __str__(self) -> str:
        return repr(self.tokens) if self.kind == "tokens" else f"{self.kind}={self.fraction!r}"

    def ratio_for(self, schedule: Schedule, start: int, num_layers: int) -> float:
        """The schedule's r that meets a `tokens` or `ratio` budget in any prompt.

        Args:
            start: the first acting layer, 0-based.
            num_layers: decoder layers.

        Raises:
            StrategyError: the schedule cannot remove that much (says how much it can), or the budget's r depends on the
                prompt.
        """
        if self.over_run:
            raise StrategyError(
                f"budget {self} holds over all clips of a run, of which a single prompt knows nothing; "
                "`fastadasp compare` finds the threshold that meets it, which the recipe's merger takes as a parameter"
            )
        if self.per_prompt:
            raise StrategyError(f"the ratio of budget {self} depends on model and prompt; ask Strategy.solve")
        if self.tokens is None:
            return self.fraction
        try:
            return _solve(self.tokens, schedule, start, num_layers)
        except TypeError:  # a schedule with a list among its parameters has no hash
            return _solve.__wrapped__(self.tokens, schedule, start, num_layers)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return value if isinstance(value, Budget) else _fields(value)

    @model_serializer
    def _write(self) -> float | dict[str, float]:
        return self.fraction if self.kind == "tokens" else {self.kind: self.fraction}


def ratios_of(schedule: Schedule, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
    """The schedule's fractions, one a layer. Raises StrategyError if they are not what the contract asks for."""
    ratios = schedule.ratios(ratio, start, num_layers)
    if len(ratios) != num_layers or not all(0 <= r < 1 for r in ratios):
        raise StrategyError(
            f"schedule {schedule.name!r} is faulty: for ratio {ratio:.4g}, start {start} and {num_layers} layers "
            f"it must give {num_layers} fractions in [0, 1), but gave {tuple(ratios)!r}"
        )
    return ratios


def cut(fraction: float) -> str:
    """A fraction with four digits, cut and not rounded, so that the figure shown can be met."""
    return f"{math.floor(fraction * 1e4 + 1e-6) / 1e4:g}"


def _fields(value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        given = {key: number for key, number in value.items() if number is not None}
        given = {str(key).replace("_", "-"): number for key, number in given.items()}
        for key in given:
            if key not in KINDS:
                guess = did_you_mean(str(key), KINDS)
                raise StrategyError(f"budget has no field {key!r}.{guess} Fields: {_listed('or')}")
        if len(given) != 1:
            wrong = "one of them is needed" if not given else "not both" if len(given) == 2 else "not several"
            raise StrategyError(f"budget is given as one of {_listed('and')}, {wrong}")
        ((key, number),) = given.items()
        what = "budget" if key == "tokens" else f"budget {key}"
        return {key.replace("-", "_"): _fraction(number, what)}
    if isinstance(value, str) and "=" in value:
        key, _, text = value.partition("=")
        return _fields({key.strip(): text.strip()})
    return {"tokens": _fraction(value, "budget")}


def _listed(word: str) -> str:
    return f"{', '.join(KINDS[:-1])} {word} {KINDS[-1]}"


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
        return 1 - math.prod(1 - r for r in ratios_of(schedule, ratio, start, num_layers))

    where = f"schedule {schedule.name!r} from layer {start} of {num_layers}"
    low, high = 0.0, math.nextafter(1.0, 0.0)
    if (most := removed(high)) < goal - _TOLERANCE:
        raise StrategyError(f"budget {goal!r} cannot be met: {where} removes at most {cut(most)} of the audio tokens")
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
