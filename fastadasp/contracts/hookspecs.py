"""The doors: every hook that a plugin can implement.

A plugin is any module or object named by an entry point of the group ``fastadasp``. It marks its functions with
`fastadasp.hookimpl`; each returns a list, and every hook is optional::

    from fastadasp import Scorer, hookimpl

    class Loudness(Scorer):
        name = "loudness"
        gives = ("importance",)
        def importance(self, layer):
            return layer.hidden.float().norm(dim=-1)

    @hookimpl
    def fastadasp_scorers():
        return [Loudness]

It may say which version of this interface it was made for (`API_VERSION` at that time)::

    FASTADASP_API = "1.1"
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from fastadasp.contracts.adapter import ModelAdapter
    from fastadasp.contracts.components import Component, LayerSelector, Merger, Schedule, Scorer
    from fastadasp.contracts.task import Task
    from fastadasp.strategy import Strategy

PROJECT = "fastadasp"
HOOK_PREFIX = f"{PROJECT}_"
"""What the name of every hook begins with."""
API_VERSION = "1.1"
"""Version of the hooks and of the contracts behind them. The first number changes when a plugin has to be changed: one
that was made for another is refused. The second changes when something is added."""
API_ATTRIBUTE = "FASTADASP_API"
"""Where a plugin says which version it was made for; one without it is taken as it comes."""
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's function as the implementation of the hook of its name."""


@hookspec
def fastadasp_components() -> list[type[Component]]:  # type: ignore[empty-body]
    """Components of any kind: subclasses of `Scorer`, `Merger`, `Schedule` or `LayerSelector`, each with a ``name``."""


@hookspec
def fastadasp_scorers() -> list[type[Scorer]]:  # type: ignore[empty-body]
    """Scoring: subclasses of `Scorer` (classes, not instances), each with a unique ``name``."""


@hookspec
def fastadasp_mergers() -> list[type[Merger]]:  # type: ignore[empty-body]
    """Merging: subclasses of `Merger`, each with a unique ``name``."""


@hookspec
def fastadasp_schedules() -> list[type[Schedule]]:  # type: ignore[empty-body]
    """Scheduling: subclasses of `Schedule`, each with a unique ``name``."""


@hookspec
def fastadasp_layer_selectors() -> list[type[LayerSelector]]:  # type: ignore[empty-body]
    """Layer selection: subclasses of `LayerSelector`, each with a unique ``name``."""


@hookspec
def fastadasp_strategies() -> list[Path | str | dict[str, Any] | Strategy]:  # type: ignore[empty-body]
    """Recipes: paths of TOML files, recipe dictionaries, or `Strategy` objects. Each carries its ``name``."""


@hookspec
def fastadasp_models() -> list[ModelAdapter]:  # type: ignore[empty-body]
    """Model families: `ModelAdapter` objects, which say where a model keeps its decoder layers and audio tokens."""


@hookspec
def fastadasp_tasks() -> list[Task]:  # type: ignore[empty-body]
    """Tasks: `Task` objects, which give clips with prompts and references, and score predictions."""
