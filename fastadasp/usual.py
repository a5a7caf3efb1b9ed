"""What comparisons and studies take where nothing else is said, on the command line and in Python."""

from __future__ import annotations

from typing import Any

STRATEGIES = ("weighted", "prune", "random")
TASKS = ("asr", "er")
BUDGETS = ("0.3", "0.5", "0.7")
"""Of a comparison."""

SEEDS = 3
"""How many seeds a random strategy gets in a comparison."""

BATCH_SIZE = 12
"""Clips at a time."""

STUDY: dict[str, list[Any]] = {"tasks": ["asr", "er"], "strategies": ["weighted"], "budgets": ["0.5"], "seeds": [0]}
"""Axes of a study."""
