"""Folders that version 0.1.0 wrote, a comparison's and a study's, as those of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastadasp.experiments.records import BATCH_TIMES, TIMES

STUDY = "study.json"
"""What described a study; a comparison had ``run.json``, as today, without `command`."""

Values = dict[str, Any]


def is_comparison(description: Mapping[str, Any]) -> bool:
    """Whether ``run.json`` is a comparison's of that version."""
    return "command" not in description and "arguments" in description


def run_of(description: Values, *, study: bool) -> Values:
    """``study.json``, or a comparison's ``run.json``, as ``run.json``."""
    if not study:
        return {"command": "compare", "study": "", "cells": 0, "executor": "local", "store": "", **description}
    arguments = description.get("arguments")
    model = arguments.get("model") if isinstance(arguments, Mapping) else None
    unknown: Values = {"device_name": "", "threads": 0, "strategies": {}, "origins": {}, "tasks": {}}
    return {"command": "ablate", "seed": 0, "model": model or "", **unknown, **description}


def cell_of(line: Values) -> Values:
    """A comparison's line of ``results.jsonl``: it names no cell and holds the times."""
    costs = line.get("efficiency")
    kept = {k: v for k, v in costs.items() if k not in TIMES} if isinstance(costs, Mapping) else costs
    return {"cell": _name(line), "axes": {}, **line, "efficiency": kept}


def times_of(line: Values, device_name: str) -> Values:
    """The times that such a line holds."""
    costs = line.get("efficiency")
    known = costs if isinstance(costs, Mapping) else {}
    found = {name: known.get(name) for name in sorted(BATCH_TIMES)}
    return {"cell": _name(line), **found, "started": "", "seconds": 0.0, "host": "", "device_name": device_name}


def prediction_of(line: Values) -> Values:
    """A comparison's line of ``predictions.jsonl``."""
    return {"cell": _name(line), "axes": {}, **line}


def _name(line: Mapping[str, Any]) -> str:
    return " ".join(str(line.get(key)) for key in ("task", "strategy", "budget", "seed"))
