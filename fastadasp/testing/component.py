"""What is checked of every component: it can be made, named, printed, written to TOML and read back."""

from __future__ import annotations

import tomllib
from typing import Any, TypeVar

import tomli_w

from fastadasp.contracts.components import Component
from fastadasp.registry.checks import BASES, Kind, component_fault
from fastadasp.strategy import get_registry
from fastadasp.testing.failure import ConformanceError, Subject, describe

C = TypeVar("C", bound=Component)


def component(kind: Kind, given: Any, base: type[C]) -> tuple[C, Subject]:
    """The component to check: an object, a class (made with its defaults), or an installed name."""
    if isinstance(given, str):
        given = get_registry().get(kind, given)
    cls = given if isinstance(given, type) else type(given)
    subject = Subject(f"{kind} {getattr(cls, 'name', cls.__name__)!r}", "looked at the class")
    if fault := component_fault(kind, cls):
        expected = f"a subclass of {BASES[kind].__name__} that keeps the contract in fastadasp/contracts/components.py"
        subject.fail(fault, expected)
    if isinstance(given, type):
        made = subject.when(f"{cls.__name__}()").call("parameters with defaults; without them, give an object", cls)
    else:
        made = given
    if not isinstance(made, base):
        raise ConformanceError(f"{describe(made)} is not a {base.__name__}")
    _round_trip(made, Subject(f"{kind} {made!r}", "parameters(), written to TOML and read back"))
    return made, Subject(f"{kind} {made.name!r}" + (f" ({made!r})" if made.parameters() else ""))


def _round_trip(made: Component, subject: Subject) -> None:
    def again() -> Component:
        return type(made)(**tomllib.loads(tomli_w.dumps(made.parameters())))

    back = subject.call("parameters that TOML can hold", again)
    subject.expect(back == made, repr(back), f"an equal component, {made!r}")
