"""What tests of studies share."""

from __future__ import annotations

from typing import Any

from fastadasp.experiments.records import Result

USUAL: dict[str, list[Any]] = {"tasks": ["er"], "strategies": ["weighted"], "budgets": ["0.5"], "seeds": [0]}
FACTS: dict[str, Any] = {
    "format": 1, "model": "m", "family": "f", "layers": 10, "device": "cpu", "dtype": "float32", "batch_size": 12,
    "kernels": "auto", "versions": {"fastadasp": "0.1.0"}, "code": "c",
    "tasks": {"er": {"metric": "accuracy", "max_new_tokens": 4, "data": "d", "calibration": "k"}},
}  # fmt: skip


def result(cell: str = "ab" * 32, **changes: Any) -> Result:
    values: dict[str, Any] = {
        "cell": cell, "identity": {}, "layer": 1, "metrics": {"accuracy": 50.0}, "interval": (0.0, 100.0),
        "efficiency": None, "answers": ["ja"], "error": None, "started": 1.0, "seconds": 0.5, "host": "here",
        "process": 1, "device_name": "cpu",
    }  # fmt: skip
    return Result(**values | changes)
