"""A plugin for fastadasp: the hooks. What they bring stands in a module each."""

from __future__ import annotations

from pathlib import Path

from fastadasp import LayerSelector, Merger, Schedule, Scorer, Task, hookimpl
from fastadasp_example.arousal import Arousal
from fastadasp_example.at_depth import AtDepth
from fastadasp_example.energy import Energy
from fastadasp_example.fuse import Fuse
from fastadasp_example.stages import Stages

FASTADASP_API = "1.1"
"""The version of fastadasp's plugin interface that this was made for (fastadasp.API_VERSION)."""


@hookimpl
def fastadasp_scorers() -> list[type[Scorer]]:
    return [Energy]


@hookimpl
def fastadasp_mergers() -> list[type[Merger]]:
    return [Fuse]


@hookimpl
def fastadasp_schedules() -> list[type[Schedule]]:
    return [Stages]


@hookimpl
def fastadasp_layer_selectors() -> list[type[LayerSelector]]:
    return [AtDepth]


@hookimpl
def fastadasp_strategies() -> list[Path]:
    return [Path(__file__).with_name("pyramid-fuse.toml")]


@hookimpl
def fastadasp_tasks() -> list[Task]:
    return [Arousal()]
