"""Benchmarks by name: the paper's tables, and every figure that docs/performance.md holds the project to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastadasp.errors import UnknownNameError


@dataclass(frozen=True)
class Preset:
    """Options of one or more runs.

    Attributes:
        models: options of `fastadasp.bench.grid.Plan`, a run each.
        operators: arguments of `fastadasp.bench.operator.run`, a run each.
        paper: whether the paper's figures are printed beside.
    """

    summary: str
    models: tuple[dict[str, Any], ...] = ()
    operators: tuple[dict[str, Any], ...] = ()
    paper: bool = False


_PAPER = {
    "shape": "wavllm-7b",
    "seconds": (120, 240),
    "beams": (1, 5),
    "strategies": ("weighted",),
    "budgets": ("tokens=0.5",),
    "new_tokens": 80,
}
_HALF = {"strategies": ("weighted", "fastadasp-dense"), "budgets": ("flops=0.5",)}
_CPU = {
    "shape": "qwen3-asr-0.6b",
    "seconds": (240,),
    "strategies": ("weighted", "fastadasp-dense", "fastadasp-dense-fast"),
    "budgets": ("flops=0.5",),
    "new_tokens": 1,
    "rounds": 3,
}

PRESETS = {
    "paper": Preset("Tables 3 and 4 of the paper: 120 and 240 s, beams 1 and 5", (_PAPER,), paper=True),
    "h100": Preset(
        "every target that needs a GPU: a 7B model on 240 s, one reduction alone, the paper's tables",
        (
            {"shape": "qwen2-audio-7b", "seconds": (240,), "beams": (1, 5), "new_tokens": 64, **_HALF},
            {"shape": "qwen2-audio-7b", "seconds": (240,), "new_tokens": 64, "compiled": True, **_HALF},
            {"shape": "qwen2-audio-7b", "seconds": (30, 120, 480, 960), "new_tokens": 1, "rounds": 3, **_HALF},
            {"shape": "qwen3-asr-0.6b", "seconds": (7200,), "new_tokens": 1, "rounds": 1, **_HALF},
            _PAPER,
        ),
        (
            {"tokens": (64, 750, 6000, 24000), "hidden": (1024, 4096), "dtypes": ("bfloat16", "float32")},
        ),
        paper=True,
    ),
    "cpu": Preset(
        "every target that a CPU can show, the hour of audio apart, in float32 and bfloat16",
        tuple({**_CPU, "dtype": dtype} for dtype in ("float32", "bfloat16")),
        ({"tokens": (750, 3000, 24000), "hidden": (1024, 4096), "dtypes": ("float32", "bfloat16"), "rounds": 3},),
    ),
}  # fmt: skip


def find_preset(name: str) -> Preset:
    """A preset by name. Raises UnknownNameError."""
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]
