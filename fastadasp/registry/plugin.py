"""One plugin as the registry sees it: where it came from, its hooks, and what is wrong with it."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pluggy

from fastadasp.contracts import hookspecs
from fastadasp.contracts.hookspecs import API_ATTRIBUTE
from fastadasp.errors import did_you_mean
from fastadasp.registry.checks import Kind, api_fault
from fastadasp.registry.enabled import normalised
from fastadasp.registry.search import with_hooks

HOOKS: dict[str, Kind | None] = {
    "fastadasp_components": None,
    "fastadasp_scorers": "scorer",
    "fastadasp_mergers": "merger",
    "fastadasp_schedules": "schedule",
    "fastadasp_layer_selectors": "layer-selector",
    "fastadasp_models": "model",
    "fastadasp_tasks": "task",
    "fastadasp_strategies": "strategy",
}
"""What each hook brings; None where the class of each thing says what it is."""

SLOW = 1.0
"""Seconds to import that are worth a note: every command waits for them."""


@dataclass(frozen=True)
class Origin:
    """Where a plugin or component came from. `distribution` is empty for what was registered by hand."""

    distribution: str
    version: str
    module: str
    entry_point: str
    file: str | None = None
    """The TOML file, for a recipe read from one."""

    def at(self, module: str, file: Path | None) -> Origin:
        """The same plugin, at the very module or file that holds a component."""
        return replace(self, module=module, file=str(file) if file else None)

    def __str__(self) -> str:
        package = f"{self.distribution} {self.version}" if self.distribution else "this session"
        return f"{self.entry_point!r} of {package} ({self.file or self.module})"


@dataclass(frozen=True)
class Entry:
    """A usable component."""

    kind: Kind
    name: str
    value: Any
    origin: Origin
    summary: str


@dataclass(frozen=True)
class Problem:
    """A fault of one plugin. `kind` and `name` say which component is lost, as far as known."""

    plugin: str
    distribution: str
    version: str
    hook: str | None
    fault: str
    kind: Kind | None = None
    name: str | None = None

    def __str__(self) -> str:
        package = f" of {self.distribution} {self.version}" if self.distribution else ""
        hook = f", hook {self.hook}" if self.hook else ""
        return f"plugin {self.plugin!r}{package}{hook}: {self.fault}"


@dataclass(frozen=True)
class PluginRecord:
    """What there is to know about a plugin. A broken one still brings those components that have no fault.

    Attributes:
        fault: what is wrong with it, or why it is disabled; empty for a loaded one.
        api: the version of the plugin interface that it says it was made for; empty if it says nothing.
        seconds: how long its import took.
    """

    name: str
    distribution: str
    version: str
    module: str
    hooks: tuple[str, ...]
    components: tuple[Entry, ...]
    state: Literal["loaded", "broken", "disabled"]
    fault: str
    api: str = ""
    seconds: float = 0.0


class PluginManager(pluggy.PluginManager):
    """pluggy's manager, passing over hook implementations that were found faulty instead of giving up."""

    def __init__(self) -> None:
        super().__init__(hookspecs.PROJECT)
        self.add_hookspecs(hookspecs)
        self.faulty: set[str] = set()

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        try:
            return None if name in self.faulty else super().parse_hookimpl_opts(plugin, name)
        except Exception:  # an attribute that raises when it is read is no hook
            return None


@dataclass
class Plugin:
    """A plugin on its way in. `key` is its name in the registry; `disabled` says why it is not to load."""

    key: str
    origin: Origin
    target: object = None
    point: importlib.metadata.EntryPoint | None = None
    problems: list[Problem] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)
    disabled: str = ""
    api: object = None
    seconds: float = 0.0
    source: Callable[[], object] | None = None
    """Imports it, where it has no entry point."""

    @classmethod
    def of_entry_point(cls, point: importlib.metadata.EntryPoint) -> Plugin:
        """A plugin that is not imported yet."""
        try:
            metadata = point.dist.metadata if point.dist else None
            name, version = (str(metadata["Name"]), str(metadata["Version"])) if metadata else ("unknown", "")
        except Exception:  # a half-removed distribution
            name, version = "unknown", ""
        name = normalised(name)
        origin = Origin(name, version, point.value.split(":")[0].strip(), point.name)
        return cls(f"{name}:{point.name}", origin, point=point)

    def fault(self, text: str, hook: str | None = None, kind: Kind | None = None, name: str | None = None) -> None:
        """Notes a fault; control characters in what a plugin says (colours, say) do not reach a terminal."""
        text = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
        origin = self.origin
        self.problems.append(Problem(origin.entry_point, origin.distribution, origin.version, hook, text, kind, name))

    def load(self) -> None:
        """Imports what the entry point names, and finds out which version of the interface it was made for."""
        begin = time.perf_counter()
        try:
            self.target = self.point.load() if self.point else self.source() if self.source else None
            stated = getattr(self.target, API_ATTRIBUTE, None)
            self.api = getattr(sys.modules.get(self.origin.module), API_ATTRIBUTE, None) if stated is None else stated
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.target = None
            self.api = _api_in_source(self.origin.module)
            if not api_fault(self.api):  # else that is why
                self.fault(f"cannot be imported from {self.origin.module!r}: {explain(error)}")
        if fault := api_fault(self.api):
            self.fault(fault)
            self.target = None
        self.target = with_hooks(self.target, self.fault)
        self.seconds = time.perf_counter() - begin

    def enter(self, manager: PluginManager) -> None:
        """Checks every hook implementation and registers the good ones."""
        if self.target is None:
            return
        manager.faulty = set()
        for name in dir(self.target):
            hook, fault = _examine(manager, self.target, name)
            if fault is not None:
                manager.faulty.add(name)
                self.fault(fault, hook, HOOKS.get(hook or ""))
            elif hook is not None:
                self.hooks.append(hook)
        if not self.hooks and not self.problems:
            self.fault(
                "holds no scorer, merger, schedule, layer selector or recipe, and implements no hook; mark at least "
                "one function with @fastadasp.hookimpl"
            )
        try:
            manager.register(self.target, self.key)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.fault(f"is refused: {explain(error)}")
            self.hooks.clear()
        finally:
            manager.faulty = set()

    def functions(self, manager: PluginManager) -> Iterator[tuple[str, Callable[[], Any]]]:
        """The good hook implementations, as (hook, function)."""
        if manager.get_plugin(self.key) is not self.target or self.target is None:
            return
        for caller in manager.get_hookcallers(self.target) or []:
            for implementation in caller.get_hookimpls():
                if implementation.plugin is self.target and caller.name in HOOKS:
                    yield caller.name, implementation.function

    def record(self, components: tuple[Entry, ...]) -> PluginRecord:
        """What there is to know about it."""
        o = self.origin
        fault = "; ".join(f"{p.hook}: {p.fault}" if p.hook else p.fault for p in self.problems)
        state: Literal["loaded", "broken", "disabled"] = "broken" if self.problems else "loaded"
        if self.disabled:
            state, fault = "disabled", self.disabled
        hooks = tuple(dict.fromkeys(self.hooks))
        return PluginRecord(
            o.entry_point, o.distribution, o.version, o.module, hooks, components, state, fault,
            self.api if isinstance(self.api, str) else "", round(self.seconds, 3),
        )  # fmt: skip


def explain(error: BaseException) -> str:
    """An exception on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _api_in_source(module: str) -> object:
    """The version that a module states, where it cannot be imported: most likely for want of what that version has."""
    try:
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(str(spec and spec.origin)).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                names = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(ast.unparse(name) == API_ATTRIBUTE for name in names):
                    return ast.literal_eval(node.value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a parent package that fails, no source, bad syntax
        return None
    return None


def _examine(manager: PluginManager, target: object, name: str) -> tuple[str | None, str | None]:
    """(hook, fault) of one attribute: (None, None) for what is no hook, (hook, None) for a good one."""
    try:
        options = manager.parse_hookimpl_opts(target, name)
        function = getattr(target, name) if options is not None or name in HOOKS else None
    except Exception as error:  # a property under a hook's name
        return name, f"cannot be read: {explain(error)}"
    if options is None:
        if not callable(function) or hasattr(function, f"{hookspecs.PROJECT}_spec"):
            return None, None
        return name, "is not marked with @fastadasp.hookimpl, so it would never be called"
    hook = options.get("specname") or name
    if hook not in HOOKS:
        return hook, f"there is no such hook.{did_you_mean(hook, HOOKS)} Hooks: {', '.join(HOOKS)}"
    if options.get("wrapper") or options.get("hookwrapper"):
        return hook, "is a hook wrapper; only plain implementations are called here"
    spec = getattr(manager.hook, hook).spec
    offered = tuple(spec.argnames) if spec else ()
    try:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return hook, None
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    extra = [p.name for p in parameters if p.default is p.empty and p.kind not in free and p.name not in offered]
    if extra:
        takes = f"takes only {', '.join(offered)}" if offered else "takes no arguments"
        asked = ", ".join(map(repr, extra))
        return hook, f"has the wrong signature: it asks for {asked}, but the hook {takes}"
    return hook, None
