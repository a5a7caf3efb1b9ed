"""The sources of a recipe's parts, as hashes: they change with what a component does, where its name does not."""

from __future__ import annotations

import hashlib
import inspect
import sys
from functools import cache

from fastadasp.recipes.reading import SECTIONS
from fastadasp.recipes.recipe import Recipe


@cache
def source_hash(module: str) -> str:
    """SHA-256 of a module's source; its name where there is none."""
    try:
        return hashlib.sha256(inspect.getsource(sys.modules[module]).encode()).hexdigest()
    except (KeyError, OSError, TypeError):
        return module


def part_sources(recipe: Recipe) -> dict[str, str]:
    """For each part of a recipe, without those of a second stage: its class, and the hash of the class's module."""
    return {
        part: f"{type(component).__qualname__} {source_hash(type(component).__module__)}"
        for part in SECTIONS
        if (component := getattr(recipe, part)) is not None
    }
