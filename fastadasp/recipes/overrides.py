"""Overrides of a recipe's fields as the command line has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastadasp.errors import StrategyError, did_you_mean
from fastadasp.files import parse_toml
from fastadasp.recipes.reading import SHORTHANDS
from fastadasp.recipes.recipe import Recipe


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """Overrides written as ``field=value`` or ``field.parameter=value``, as the command line's ``--set`` has it.

    Values are read as TOML (``3``, ``0.5``, ``true``, ``[1, 2]``, ``"text"``); whatever is not TOML is text.

    Raises:
        StrategyError: an item without ``=``, with an unknown field, or given twice.
    """
    known = [*Recipe.model_fields, *SHORTHANDS]
    overrides: dict[str, Any] = {}
    for item in items:
        key, equals, text = (part.strip() for part in item.partition("="))
        field = key.partition(".")[0]
        if not equals or not key:
            raise StrategyError(f"--set {item!r}: write field=value, e.g. schedule.name=decay")
        if field not in known:
            guess = did_you_mean(field, known)
            allowed = ", ".join(sorted(known))
            raise StrategyError(f"--set {item!r}: unknown field {field!r}.{guess} Allowed: {allowed}")
        if key in overrides:
            raise StrategyError(f"--set {item!r}: {key!r} is given twice")
        overrides[key] = _toml_value(text)
    return overrides


def _toml_value(text: str) -> Any:
    try:
        table = parse_toml(f"value = {text}")
    except ValueError:
        return text
    value = table["value"]
    # Dates are text here, and so is text that smuggled in a second line.
    return value if len(table) == 1 and isinstance(value, str | int | float | list | dict) else text
