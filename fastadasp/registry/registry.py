"""Finds plugins, names their components and remembers where each came from.

A plugin enters by an entry point of the group ``fastadasp`` (or `Registry.register`). Each is read on its own:
whatever is wrong with one becomes a `Problem`, and the rest works on.
"""

from __future__ import annotations

import importlib.metadata
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from fastadasp.contracts.hookspecs import API_ATTRIBUTE, PROJECT
from fastadasp.errors import PluginError, UnknownNameError
from fastadasp.registry.checks import BASES, KINDS, Kind, api_fault, component_fault, describe, kind_of
from fastadasp.registry.enabled import Enabled
from fastadasp.registry.plugin import HOOKS, SLOW, Entry, Origin, Plugin, PluginManager, PluginRecord, Problem, explain
from fastadasp.registry.plugin_files import files_from_environment

if TYPE_CHECKING:
    from fastadasp.contracts.adapter import ModelAdapter
    from fastadasp.contracts.components import LayerSelector, Merger, Schedule, Scorer
    from fastadasp.contracts.task import Task
    from fastadasp.strategy import Strategy

__all__ = ["Entry", "Origin", "PluginRecord", "Problem", "Registry", "get_registry"]


class ReadRecipe(NamedTuple):
    """What a reader made of a recipe that a plugin handed over: the recipe, or what is wrong with it."""

    name: str | None
    recipe: object | None
    fault: str = ""
    file: Path | None = None


Reader = Callable[[object], ReadRecipe]
"""Turns what a plugin handed over (a path, a table, an object) into a recipe."""


class Registry:
    """Everything that is installed, by kind and name."""

    def __init__(self, *, discover: bool = True, reader: Reader | None = None) -> None:
        """Reads every installed plugin that is enabled (`fastadasp.registry.enabled`), or none with ``discover=False``.

        Recipes are kept as they were handed over until there is a `reader`, here or from `read_recipes`.

        Raises UnknownNameError where the environment names a plugin that is not installed.
        """
        self._manager = PluginManager()
        self._plugins: dict[str, Plugin] = {}
        self._entries: dict[tuple[str, str], Entry] = {}
        self._owners: dict[tuple[str, str], str] = {}
        self._loading = False
        self._reader = reader
        self._unread: list[tuple[Plugin, str, object]] = []
        if discover:
            self._discover()

    # Looking things up

    @overload
    def get(self, kind: Literal["scorer"], name: str) -> type[Scorer]: ...
    @overload
    def get(self, kind: Literal["merger"], name: str) -> type[Merger]: ...
    @overload
    def get(self, kind: Literal["schedule"], name: str) -> type[Schedule]: ...
    @overload
    def get(self, kind: Literal["layer-selector"], name: str) -> type[LayerSelector]: ...
    @overload
    def get(self, kind: Literal["model"], name: str) -> ModelAdapter: ...
    @overload
    def get(self, kind: Literal["task"], name: str) -> Task: ...
    @overload
    def get(self, kind: Literal["strategy"], name: str) -> Strategy: ...
    @overload
    def get(self, kind: str, name: str) -> Any: ...
    def get(self, kind: str, name: str) -> Any:
        """The component of this kind and name: a class, or for models, tasks and strategies an object.

        Raises:
            UnknownNameError: nothing installed has this name; says which names come close.
            PluginError: a plugin brought it, but it is broken; says which plugin and what the fault is.
        """
        return self._find(kind, name).value

    def origin(self, kind: str, name: str) -> Origin:
        """Where a component came from. Raises like `get`."""
        return self._find(kind, name).origin

    def entries(self, kind: str | None = None) -> list[Entry]:
        """Every usable component, of one kind if given, sorted by kind and name."""
        if kind is not None:
            _check_kind(kind)
        found = [entry for entry in self._entries.values() if kind in (None, entry.kind)]
        return sorted(found, key=lambda entry: (KINDS.index(entry.kind), entry.name))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every fault found, in the order plugins were read."""
        return tuple(problem for plugin in self._plugins.values() for problem in plugin.problems)

    def plugins(self) -> list[PluginRecord]:
        """One record per plugin, broken ones too."""
        return [
            plugin.record(tuple(e for e in self.entries() if self._owners[e.kind, e.name] == key))
            for key, plugin in self._plugins.items()
        ]

    # Adding and removing by hand, for tests and notebooks

    def register(self, plugin: object, name: str | None = None) -> str:
        """Adds a module or object as a plugin and returns the name to `unregister` it by.

        Unlike an installed plugin, a faulty one is refused as a whole.

        Raises:
            PluginError: the name is taken, or anything is wrong with the plugin.
        """
        name = name or getattr(plugin, "__name__", None) or type(plugin).__name__
        if name in self._plugins:
            raise PluginError(f"a plugin {name!r} is already registered; call unregister({name!r}) first")
        module = getattr(plugin, "__name__" if hasattr(plugin, "__spec__") else "__module__", "")
        entered = Plugin(name, Origin("", "", str(module), name), plugin, api=getattr(plugin, API_ATTRIBUTE, None))
        self._plugins[name] = entered
        if fault := api_fault(entered.api):
            entered.fault(fault)
        else:
            with self.in_use():
                self._read([entered])
        if entered.problems:
            problems = "\n".join(f"  - {problem}" for problem in entered.problems)
            self.unregister(name)
            raise PluginError(f"plugin {name!r} is refused:\n{problems}")
        return name

    def unregister(self, name: str) -> None:
        """Takes a plugin out again, with all that it brought. Raises PluginError for an unknown name."""
        plugin = self._plugins.pop(name, None)
        if plugin is None:
            raise PluginError(str(UnknownNameError("plugin", name, self._plugins)))
        if self._manager.has_plugin(plugin.key):
            self._manager.unregister(name=plugin.key)
        self._unread = [entry for entry in self._unread if entry[0] is not plugin]
        for key in [key for key, owner in self._owners.items() if owner == name]:
            del self._entries[key], self._owners[key]

    @contextmanager
    def in_use(self) -> Iterator[Registry]:
        """Inside, `get_registry` gives this registry (to this thread or task only)."""
        token = _active.set(self)
        try:
            yield self
        finally:
            _active.reset(token)

    def read_recipes(self, reader: Reader) -> None:
        """Turns the recipes that were handed over into entries, and all later ones; does nothing the second time."""
        with _lock:
            if self._reader is not None:
                return
            self._reader = reader
            unread, self._unread = self._unread, []
            with self.in_use(), redirect_stdout(sys.stderr):
                for plugin, hook, item in unread:
                    self._add_strategy(plugin, hook, item)

    # Reading plugins

    def _discover(self) -> None:
        points = importlib.metadata.entry_points(group=PROJECT)
        found = [Plugin.of_entry_point(point) for point in points]
        # The built-ins first: a stranger's package cannot take their names.
        found.sort(key=lambda p: (p.origin.distribution != PROJECT, p.key))
        enabled = Enabled.from_environment()
        enabled.check(plugin.origin for plugin in found)
        files = files_from_environment()  # named by hand: no choice between plugins concerns them
        self._loading = True
        try:
            with self.in_use(), redirect_stdout(sys.stderr):  # what a plugin prints is not the command's output
                for plugin in [*found, *files]:
                    while plugin.key in self._plugins:  # one distribution may list a name twice
                        plugin.key += "'"
                    self._plugins[plugin.key] = plugin
                    plugin.disabled = "" if plugin in files else enabled.reason_against(plugin.origin)
                    if not plugin.disabled:
                        self._load(plugin)
                self._loading = False
                self._read([*found, *files])
        finally:
            self._loading = False

        if faults := [str(problem) for plugin in files for problem in plugin.problems]:
            raise PluginError("\n".join(faults))

    def _load(self, plugin: Plugin) -> None:
        plugin.load()
        if (
            plugin.seconds > SLOW and plugin.point and plugin.origin.distribution != PROJECT
        ):  # without the built-ins nothing is left
            _log.warning(
                "plugin %s took %.1f s to import, and every command waits for it; --no-plugin %s leaves it out",
                plugin.origin, plugin.seconds, plugin.origin.distribution,
            )  # fmt: skip

    def _read(self, plugins: list[Plugin]) -> None:
        """Components of all plugins first, then recipes, which may name components of any plugin."""
        for plugin in plugins:
            plugin.enter(self._manager)
        for recipes in (False, True):
            for plugin in plugins:
                for hook, function in plugin.functions(self._manager):
                    if (HOOKS[hook] == "strategy") is recipes:
                        self._call(plugin, hook, HOOKS[hook], function)

    def _call(self, plugin: Plugin, hook: str, kind: Kind | None, function: Any) -> None:
        try:
            items = function()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            plugin.fault(f"raised {explain(error)}", hook, kind)
            return
        if type(items) is not list:
            plugin.fault(f"returned {describe(items)}, not a list", hook, kind)
            return
        for item in items:
            try:
                if kind == "strategy":
                    self._add_strategy(plugin, hook, item)
                else:
                    self._add_component(plugin, hook, kind, item)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # say, a property that raises
                plugin.fault(f"{describe(item)} cannot be read: {explain(error)}", hook, kind)

    def _add_component(self, plugin: Plugin, hook: str, kind: Kind | None, value: Any) -> None:
        kind = kind or kind_of(value)
        if kind is None:
            plugin.fault(f"{describe(value)} is no subclass of {', '.join(b.__name__ for b in BASES.values())}", hook)
            return
        if fault := component_fault(kind, value):
            named = getattr(value, "name", None)
            plugin.fault(fault, hook, kind, named if isinstance(named, str) else None)
            return
        module = (value if isinstance(value, type) else type(value)).__module__
        if kind == "model":  # adapters are plain data: their class says nothing about who wrote them
            module = plugin.origin.module
        self._add(plugin, hook, kind, value.name, value, str(getattr(value, "summary", "") or ""), module)

    def _add_strategy(self, plugin: Plugin, hook: str, item: object) -> None:
        if self._reader is None:
            self._unread.append((plugin, hook, item))
            return
        read = self._reader(item)
        if read.name is None or read.recipe is None:
            plugin.fault(read.fault, hook, "strategy", read.name)
            return
        summary = str(getattr(read.recipe, "summary", ""))
        self._add(plugin, hook, "strategy", read.name, read.recipe, summary, plugin.origin.module, read.file)

    def _add(
        self, plugin: Plugin, hook: str, kind: Kind, name: str, value: Any, summary: str, module: str,
        file: Path | None = None,
    ) -> None:  # fmt: skip
        first = self._entries.get((kind, name))
        origin = plugin.origin.at(module, file)
        if first is not None:
            fault = f"{kind} {name!r} from {origin} is left out: the name is taken by {first.origin}"
            plugin.fault(fault, hook, kind, name)
            return
        self._entries[kind, name] = Entry(kind, name, value, origin, summary)
        self._owners[kind, name] = plugin.key

    def _find(self, kind: str, name: str) -> Entry:
        _check_kind(kind)
        if kind == "strategy" and self._reader is None:
            raise RuntimeError("strategies are read by fastadasp.strategy.get_registry")
        if entry := self._entries.get((kind, name)):
            return entry
        for problem in self.problems:
            if (problem.kind, problem.name) == (kind, name):
                raise PluginError(f"{kind} {name!r} is installed but broken: {problem}")
        hint = ""
        # Whatever could not be read may well hold the name that is asked for.
        silent = [str(p) for p in self.problems if p.name is None and p.kind in (None, kind)]
        if silent:
            hint = f"It may belong to what could not be read: {'; '.join(silent)}."
        off = [str(plugin.origin) for plugin in self._plugins.values() if plugin.disabled]
        if off:
            hint += f" Disabled plugins: {', '.join(off)}."
        if self._loading:
            hint += " Plugins are still being read: name components inside a hook, not on import of a module."
        raise UnknownNameError(kind, name, [n for k, n in self._entries if k == kind], hint.strip())


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UnknownNameError("kind of component", kind, KINDS)


_log = logging.getLogger(__name__)
_active: ContextVar[Registry | None] = ContextVar("fastadasp_registry", default=None)
_shared: Registry | None = None
_lock = threading.RLock()


def get_registry() -> Registry:
    """The registry of this process, read on first use."""
    global _shared
    if (active := _active.get()) is not None:
        return active
    with _lock:
        if _shared is None:
            _shared = Registry()
        return _shared
