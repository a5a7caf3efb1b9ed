"""fastadasp: fewer audio tokens inside speech language models.

    with fastadasp.load_strategy("weighted", budget=0.5).apply(model) as trace:
        model.generate(**inputs)

Nothing is imported before it is asked for, so ``import fastadasp`` costs next to nothing and never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastadasp import ops as ops
    from fastadasp.contracts.adapter import ModelAdapter
    from fastadasp.contracts.components import Component, LayerSelector, Merger, Schedule, Scorer
    from fastadasp.contracts.hookspecs import API_VERSION, hookimpl
    from fastadasp.contracts.task import Example, Task
    from fastadasp.contracts.token_plan import TokenPlan
    from fastadasp.contracts.workload import Workload
    from fastadasp.counts.budget import Budget
    from fastadasp.counts.shape import DecoderShape
    from fastadasp.engine.view import LayerView
    from fastadasp.errors import (
        DataError,
        EstimateError,
        FastAdaSPError,
        ModelError,
        PluginError,
        RunError,
        StrategyError,
        UnknownNameError,
    )
    from fastadasp.inference.load import LoadedModel, load_model
    from fastadasp.runs import LoadedRun, compare, load_run
    from fastadasp.selection.calibrated import CalibratedSelector
    from fastadasp.selection.calibration import Calibration, Features
    from fastadasp.selection.choice import LayerChoice, Selection
    from fastadasp.selection.select import select_layer
    from fastadasp.strategy import Strategy, get_registry, load_strategy
    from fastadasp.tasks.manifest import ManifestTask
    from fastadasp.transcribe.speech_model import SpeechModel, Transcript, load_speech_model

    __version__: str

__all__ = [
    "API_VERSION",
    "Budget",
    "CalibratedSelector",
    "Calibration",
    "Component",
    "DataError",
    "DecoderShape",
    "EstimateError",
    "Example",
    "FastAdaSPError",
    "Features",
    "LayerChoice",
    "LayerSelector",
    "LayerView",
    "LoadedModel",
    "LoadedRun",
    "ManifestTask",
    "Merger",
    "ModelAdapter",
    "ModelError",
    "PluginError",
    "RunError",
    "Schedule",
    "Scorer",
    "Selection",
    "SpeechModel",
    "Strategy",
    "StrategyError",
    "Task",
    "TokenPlan",
    "Transcript",
    "UnknownNameError",
    "Workload",
    "__version__",
    "compare",
    "get_registry",
    "hookimpl",
    "load_model",
    "load_run",
    "load_speech_model",
    "load_strategy",
    "ops",
    "select_layer",
]

_HOMES = {
    "counts.budget": ("Budget",),
    "contracts.components": ("Component", "LayerSelector", "Merger", "Schedule", "Scorer"),
    "contracts.token_plan": ("TokenPlan",),
    "contracts.workload": ("Workload",),
    "engine.view": ("LayerView",),
    "errors": (
        "DataError",
        "EstimateError",
        "FastAdaSPError",
        "ModelError",
        "PluginError",
        "RunError",
        "StrategyError",
        "UnknownNameError",
    ),
    "contracts.hookspecs": ("API_VERSION", "hookimpl"),
    "contracts.adapter": ("ModelAdapter",),
    "inference.load": ("LoadedModel", "load_model"),
    "counts.shape": ("DecoderShape",),
    "runs": ("LoadedRun", "compare", "load_run"),
    "selection.calibrated": ("CalibratedSelector",),
    "selection.calibration": ("Calibration", "Features"),
    "selection.choice": ("LayerChoice", "Selection"),
    "selection.select": ("select_layer",),
    "strategy": ("Strategy", "get_registry", "load_strategy"),
    "tasks.manifest": ("ManifestTask",),
    "contracts.task": ("Example", "Task"),
    "transcribe.speech_model": ("SpeechModel", "Transcript", "load_speech_model"),
}
_HOME = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    value: Any
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name == "ops":
        value = import_module(f"{__name__}.ops")
    elif name == "__version__":
        value = import_module(f"{__name__}.version").installed_version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
