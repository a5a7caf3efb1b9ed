"""What a plugin's contribution must satisfy to enter the registry. A check answers with a fault, or None."""

from __future__ import annotations

import inspect
import re
from typing import Any, Literal, get_args

from fastadasp.contracts.adapter import ModelAdapter
from fastadasp.contracts.components import (
    Component,
    LayerSelector,
    Merger,
    Need,
    Schedule,
    ScoreKind,
    Scorer,
    Site,
)
from fastadasp.contracts.hookspecs import API_ATTRIBUTE, API_VERSION
from fastadasp.contracts.task import Task

Kind = Literal["scorer", "merger", "schedule", "layer-selector", "model", "task", "strategy"]
KINDS: tuple[Kind, ...] = get_args(Kind)

BASES: dict[Kind, type[Component]] = {
    "scorer": Scorer,
    "merger": Merger,
    "schedule": Schedule,
    "layer-selector": LayerSelector,
}
"""The kinds that plugins give as classes, with the class each must derive from."""

_SCORES: tuple[str, ...] = get_args(ScoreKind)
_NEEDS: tuple[str, ...] = get_args(Need)
_SITES: tuple[str, ...] = get_args(Site)
_NAME = re.compile(r"[a-z0-9]+(?:[._+-][a-z0-9]+)*")


def kind_of(value: object) -> Kind | None:
    """The kind of a component class, or of an instance of one; None for anything else."""
    cls = value if inspect.isclass(value) else type(value)
    return next((kind for kind, base in BASES.items() if issubclass(cls, base)), None)


def name_fault(name: object) -> str | None:
    """What is wrong with a name, if anything. Names stand in TOML, comma lists and file names: keep them plain."""
    if not isinstance(name, str) or not name:
        return "has no `name`"
    if not _NAME.fullmatch(name) or name.endswith(".toml"):
        return f"has the name {name!r}; names are lower-case letters and digits joined by - _ + or ."
    if name == "none":
        return "has the name 'none', which recipes use to say that there is none"
    return None


def component_fault(kind: Kind, value: Any) -> str | None:
    """Why `value` cannot be a component of this kind, naming it, or None if it can."""
    fault = _class_fault(kind, value) if kind in BASES else _object_fault(kind, value)
    if fault is None and (named := name_fault(getattr(value, "name", None))):
        fault = f"{describe(value)} {named}"
    return fault


def api_fault(stated: object) -> str | None:
    """Why a plugin made for this version of the interface cannot be used, or None if it can."""
    if stated is None:
        return None
    if not isinstance(stated, str) or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", stated):
        return f"says {API_ATTRIBUTE} = {stated!r}; it is a version as text, such as {API_VERSION!r}"
    theirs, ours = (int(version.split(".")[0]) for version in (stated, API_VERSION))
    if theirs == ours:
        return None
    advice = "a newer fastadasp is needed" if theirs > ours else "look for a newer release of the plugin"
    return f"is made for version {stated} of the plugin interface, and this is {API_VERSION}: {advice}"


def describe(value: Any) -> str:
    """A short name for any object, without calling its own (perhaps broken) repr."""
    if inspect.isclass(value):
        return f"class {value.__name__}"
    return f"an object of type {type(value).__name__}"


def _class_fault(kind: Kind, value: Any) -> str | None:
    base = BASES[kind]
    if isinstance(value, base):
        return f"{describe(value)} is an instance; return the class itself"
    if not inspect.isclass(value) or not issubclass(value, base):
        return f"{describe(value)} is not a subclass of {base.__name__}"
    if value is base:
        return f"class {base.__name__} is the contract itself, not an implementation"
    methods = value.must_define
    if kind == "scorer":
        gives = getattr(value, "gives", None)
        if not isinstance(gives, tuple) or not gives or not set(gives) <= set(_SCORES):
            return f"{describe(value)} must set `gives` to a tuple of {' and/or '.join(map(repr, _SCORES))}"
        methods = gives
    if kind == "merger" and getattr(value, "reads", None) not in _SCORES:
        return f"{describe(value)} must set `reads` to {' or '.join(map(repr, _SCORES))}"
    if kind in ("scorer", "merger"):
        needs = getattr(value, "needs", None)
        if not isinstance(needs, frozenset) or not needs <= set(_NEEDS):
            return f"{describe(value)} must set `needs` to a frozenset of {' and/or '.join(map(repr, _NEEDS))}"
    if kind == "merger":
        sites = getattr(value, "sites", None)
        if not isinstance(sites, tuple) or not sites or not set(sites) <= set(_SITES):
            return f"{describe(value)} must set `sites` to a tuple of {' and/or '.join(map(repr, _SITES))}"
    for method in methods:
        if fault := _method_fault(value, method):
            return f"{describe(value)} {fault}"
    return None


def _method_fault(value: type, method: str) -> str | None:
    contract = next(cls for cls in value.__mro__ if method in _declared(cls))
    if getattr(value, method) is getattr(contract, method):
        return f"does not define `{method}`"
    if not inspect.isfunction(inspect.getattr_static(value, method)):
        return None  # static methods, descriptors: beyond what a signature tells
    wanted = list(inspect.signature(getattr(contract, method)).parameters)
    try:
        inspect.signature(getattr(value, method)).bind(*wanted)
    except TypeError as error:
        return f"has a `{method}` that cannot be called as {method}({', '.join(wanted)}): {error}"
    return None


def _declared(cls: type) -> tuple[str, ...]:
    """The methods that a contract declares itself, for its subclasses to define."""
    return _SCORES if cls is Scorer else vars(cls).get("must_define", ())


def _object_fault(kind: Kind, value: Any) -> str | None:
    if kind == "task":
        return None if isinstance(value, Task) else f"{describe(value)} is not a Task object"
    return None if isinstance(value, ModelAdapter) else f"{describe(value)} is not a ModelAdapter object"
