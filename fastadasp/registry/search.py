"""Finds what a module without hooks brings: its component classes and recipes, and those of a package's modules."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from fastadasp.contracts.hookspecs import HOOK_PREFIX, PROJECT, hookimpl
from fastadasp.registry.checks import BASES


class Found:
    """Stands in for a module that implements no hook, with the hooks that bring what was found in it."""

    def __init__(self, components: list[Any], recipes: list[Any]) -> None:
        """Takes classes of components, and recipes as dictionaries."""
        if components:
            self.fastadasp_components = hookimpl(lambda: list(components))
        if recipes:
            self.fastadasp_strategies = hookimpl(lambda: list(recipes))


def with_hooks(target: object, fault: Callable[[str], None]) -> object:
    """`target` itself if it implements a hook, is no module or holds nothing; else a `Found` for what it holds.

    Of a package, all modules directly in it are searched, too. Names that begin with an underscore are left alone.
    A module that cannot be imported is reported to `fault`, and the others are searched all the same.
    """
    if not isinstance(target, ModuleType) or _implements_hooks(target):
        return target
    faults: list[str] = []
    modules = [target, *_modules_in(target, faults)]
    components = [value for module in modules for value in _components(module)]
    recipes = [value for module in modules for value in _recipes(module)]
    for text in faults:
        fault(text)
    return Found(components, recipes) if components or recipes else target


def _implements_hooks(module: ModuleType) -> bool:
    """Whether it has a function that is marked as a hook, or that bears a hook's name and should have been."""
    return any(
        inspect.isroutine(value) and (name.startswith(HOOK_PREFIX) or hasattr(value, f"{PROJECT}_impl"))
        for name, value in vars(module).items()
    )


def _modules_in(package: ModuleType, faults: list[str]) -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(getattr(package, "__path__", ())):
        if found.name.startswith("_"):
            continue
        name = f"{package.__name__}.{found.name}"
        try:
            yield importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            text = " ".join(str(error).split())
            faults.append(f"cannot be imported from {name!r}: {type(error).__name__}: {text}")


def _components(module: ModuleType) -> Iterator[Any]:
    for name, value in vars(module).items():
        own = inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
        if own and issubclass(value, tuple(BASES.values())):
            yield value


def _recipes(module: ModuleType) -> Iterator[Any]:
    for name, value in vars(module).items():
        if not name.startswith("_") and isinstance(value, dict) and {"name", "merger"} <= value.keys():
            yield value
