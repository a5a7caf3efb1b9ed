"""Python files as plugins: ``fastadasp --plugin mine.py``, or the environment variable ``FASTADASP_PLUGIN_FILES``.

A file needs no package, no installation and no hook: its subclasses of `Scorer`, `Merger`, `Schedule` and
`LayerSelector` are found, and so are recipes, which are dictionaries with a ``name`` and a ``merger``.
Names that begin with an underscore are left alone. A hook that the file implements itself replaces the search.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from fastadasp.errors import PluginError
from fastadasp.registry.plugin import Origin, Plugin

VARIABLE = "FASTADASP_PLUGIN_FILES"
"""Paths, joined as those of ``PATH`` are. Processes that this one starts read it, too."""


def files_from_environment() -> list[Plugin]:
    """The plugins that the variable names, not imported yet. Raises PluginError for what is no Python file."""
    paths = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    return [_plugin(path) for path in dict.fromkeys(paths)]


@contextmanager
def adding_files(paths: Iterable[Path]) -> Iterator[None]:
    """Inside, ``FASTADASP_PLUGIN_FILES`` has these paths as well: for registries made here and in child processes."""
    before = os.environ.get(VARIABLE)
    whole = [str(path.absolute()) for path in paths]
    for path in whole:
        if os.pathsep in path:
            raise PluginError(f"the path {path} cannot be used: plugin files may have no {os.pathsep!r} in their path")
    os.environ[VARIABLE] = os.pathsep.join([*filter(None, [before]), *whole])
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _plugin(path: str) -> Plugin:
    file = Path(path)
    if file.suffix != ".py":
        raise PluginError(f"{path} is no plugin file: its name has to end in .py")
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise PluginError(f"the plugin file {path} cannot be read: {error.strerror}") from None
    # The content is part of the version, so results of another content are told apart.
    where = hashlib.sha256(str(file.absolute()).encode()).hexdigest()
    module = f"fastadasp_file_{file.stem}_{where[:8]}_{digest[:16]}"
    origin = Origin(file.name, digest[:16], module, file.stem)
    return Plugin(str(file), origin, source=lambda: _load(file, module))


def _load(file: Path, name: str) -> ModuleType:
    """The file's module."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
