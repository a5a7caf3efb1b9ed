"""Recipes as text: reading TOML, turning sections into components, overriding fields, saying what is wrong."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fastadasp.contracts.components import Component, Scorer
from fastadasp.counts.budget import KINDS
from fastadasp.errors import FastAdaSPError, StrategyError, did_you_mean
from fastadasp.files import parse_toml, read_text
from fastadasp.registry.checks import BASES, Kind, name_fault
from fastadasp.registry.registry import get_registry

if TYPE_CHECKING:
    from fastadasp.recipes.recipe import Recipe

SECTIONS: dict[str, Kind] = {
    "select": "scorer",
    "weight": "scorer",
    "merger": "merger",
    "schedule": "schedule",
    "layers": "layer-selector",
}
"""The fields of a recipe that hold a component, with its kind."""

SHORTHANDS = tuple(dict.fromkeys((*KINDS, *(kind.replace("-", "_") for kind in KINDS))))
"""Overrides that stand for the budget."""


ALTERNATIVE = re.compile(r"int|float|bool|str|constrained-\w+|literal\[.*\]")
"""How pydantic names one of several types that a field may have."""


class Faults(ValueError):
    """One or more faults in words; a ValueError, so that pydantic collects it with those of other fields."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class Changed:
    """A component that is to be built anew from its class, which need not be installed."""

    cls: type[Component]
    parameters: dict[str, Any]


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a recipe file. Raises StrategyError with the file's name."""
    try:
        return parse_toml(read_text(path))
    except FileNotFoundError:
        raise StrategyError(f"there is no recipe file {os.fspath(path)!r}") from None
    except OSError as error:
        raise StrategyError(f"recipe file {os.fspath(path)!r} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise StrategyError(f"recipe file {os.fspath(path)!r} is not valid TOML: {error}") from None


def build_component(field: str, value: Any) -> Component:
    """The component that a field's value stands for: an instance, a name, or a table of name and parameters.

    Raises:
        Faults: it stands for none.
    """
    kind = SECTIONS[field]
    base = BASES[kind]
    if isinstance(value, base):
        if fault := name_fault(getattr(value, "name", None)):
            raise Faults(f"`{field}`: class {type(value).__name__} {fault}")
        return value
    if isinstance(value, Changed):
        return _construct(field, value.cls, value.parameters)
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise Faults(
            f"`{field}` is {show(value)}: give a {kind}'s name, a table of its name and parameters, or a "
            f"{base.__name__} object"
        )
    parameters = dict(value)
    name = parameters.pop("name", None)
    if not isinstance(name, str):
        known = ", ".join(entry.name for entry in get_registry().entries(kind))
        raise Faults(f"`{field}` has no name: give {field}.name, one of {known or '(none installed)'}")
    try:
        found: Any = get_registry().get(kind, name)
    except FastAdaSPError as error:
        raise Faults(f"`{field}`: {error}") from None
    return _construct(field, found, parameters)


def _construct(field: str, cls: type[Component], parameters: Mapping[str, Any]) -> Component:
    what = f"{SECTIONS[field]} {cls.name!r}"
    try:
        return cls.model_validate(dict(parameters))
    except ValidationError as error:
        raise Faults(*explain(error, list(cls.model_fields), f"parameter of {what}", f"{field}.")) from None
    except FastAdaSPError as error:
        raise Faults(f"`{field}`: {error}") from None
    except Exception as error:  # a validator that its author did not finish
        raise Faults(f"`{field}`: {what} failed on its parameters: {type(error).__name__}: {error}") from None


def explain(error: ValidationError, known: Iterable[str], what: str, prefix: str = "") -> list[str]:
    """The faults of a pydantic error, in words: field, value, what is allowed."""
    known = sorted(known)
    faults: list[str] = []
    for item in _joined(error.errors(include_url=False)):
        field = prefix + ".".join(map(str, item["loc"]))
        raised = item.get("ctx", {}).get("error")
        if isinstance(raised, Faults):
            faults.extend(raised.faults)
        elif item["type"] == "extra_forbidden":
            word = str(item["loc"][-1])
            allowed = f"Allowed: {', '.join(known)}" if known else "There are none"
            faults.append(f"`{field}`: unknown {what}.{did_you_mean(word, known)} {allowed}")
        elif item["type"] == "missing":
            faults.append(f"`{field}` is missing")
        else:
            text = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
            subject = f"`{field}` is {show(item['input'])}: " if item["loc"] else ""
            faults.append(f"{subject}{text[:1].lower()}{text[1:]}")
    return faults


def _joined(items: Iterable[Any]) -> list[dict[str, Any]]:
    """Pydantic's errors with those of one field's alternatives, such as "an integer or 'all'", as one."""
    out: list[dict[str, Any]] = []
    for item in map(dict, items):
        *base, last = item["loc"] or ("",)
        if base and ALTERNATIVE.fullmatch(str(last)):
            item["loc"] = tuple(base)
            if out and out[-1]["loc"] == item["loc"]:
                out[-1]["msg"] += " or " + str(item["msg"]).removeprefix("Input should be ")
                continue
        out.append(item)
    return out


def show(value: Any) -> str:
    """A value for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def override(strategy: Recipe, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `strategy` with `overrides` (see `load_strategy`) laid over them."""
    fields: dict[str, Any] = {field: getattr(strategy, field) for field in type(strategy).model_fields}
    for field, value in _gather(overrides).items():
        current = fields.get(field)
        fields[field] = value
        if isinstance(value, Mapping) and isinstance(current, type(strategy)):
            fields[field] = current.replace(**value)
        if not isinstance(value, Mapping) or not isinstance(current, Component):
            continue
        if value.get("name", current.name) == current.name:
            changed = {key: setting for key, setting in value.items() if key != "name"}
            fields[field] = Changed(type(current), {**current.parameters(), **changed})
    return fields


def _gather(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as tables, shorthands as a budget: one value a field."""
    gathered: dict[str, Any] = {}
    for key, value in overrides.items():
        field, dot, parameter = key.partition(".")
        if key in SHORTHANDS:
            field, dot, parameter = "budget", ".", key
        if not dot:
            part: Any = dict(value) if isinstance(value, Mapping) else value
        elif not parameter or "." in parameter:
            raise StrategyError(f"override {key!r}: write a field or field.parameter, e.g. schedule.name")
        else:
            part = {parameter: value}
        if field not in gathered:
            gathered[field] = part
            continue
        table = gathered[field]
        if isinstance(table, str) and field in SECTIONS:
            table = {"name": table}
        if isinstance(part, str) and field in SECTIONS:
            part = {"name": part}
        if not isinstance(table, dict) or not isinstance(part, dict) or table.keys() & part.keys():
            raise StrategyError(f"`{field}` is given twice: {show(gathered[field])} and {show(value)}")
        gathered[field] = {**table, **part}
    return gathered


def gives(scorer: Scorer) -> str:
    """What a scorer gives, in words."""
    return " and ".join(scorer.gives)


def mergers(site: str) -> str:
    """Names of the mergers that can act at a site."""
    names = [entry.name for entry in get_registry().entries("merger") if site in entry.value.sites]
    return ", ".join(names) or "none installed"


def following() -> str:
    """Names of the strategies in which content can decide how much goes."""
    names = [entry.name for entry in get_registry().entries("strategy") if entry.value.follows_content]
    return ", ".join(names) or "none installed"


def scorers(score: str) -> str:
    """Names of the scorers that give a score."""
    names = [entry.name for entry in get_registry().entries("scorer") if score in entry.value.gives]
    return ", ".join(names) or "none installed"


def whole(value: Any) -> Any:
    """A whole number of any library (numpy's, torch's) as Python's; anything else as it is."""
    if isinstance(value, bool | float | str):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


def why_not_again(strategy: Recipe) -> list[str]:
    """What speaks against evicting again while an answer grows, as faults of the recipe."""
    if strategy.site != "cache":
        return [f"`every` lets a cache evict again, but the recipe acts at the site {strategy.site!r}"]
    faults = []
    if unknown := strategy.needs() & {"text", "encoder"}:
        faults.append(
            f"`every`: its components need {' and '.join(sorted(unknown))}, which is not known while an answer grows"
        )
    return faults
