"""Strategies: recipes that can be applied to a model, and those that are installed, by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastadasp.contracts.task import Example
from fastadasp.counts.budget import Budget
from fastadasp.display import html_table
from fastadasp.errors import FastAdaSPError, StrategyError, UnknownNameError
from fastadasp.features import OnFeatures
from fastadasp.files import is_file
from fastadasp.recipes.overrides import parse_overrides
from fastadasp.recipes.reading import read_toml, show
from fastadasp.recipes.recipe import Recipe
from fastadasp.registry import registry as store
from fastadasp.registry.checks import describe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastadasp.engine.encoder import EncoderSeen
    from fastadasp.engine.trace import Trace
    from fastadasp.inference.load import LoadedModel

__all__ = ["Budget", "Registry", "Strategy", "get_registry", "load_strategy", "parse_overrides"]


class Strategy(OnFeatures, Recipe):
    __doc__ = Recipe.__doc__

    then: Strategy | None = None

    def _repr_html_(self) -> str:
        """What a notebook shows: the recipe by its parts, with their parameters."""
        rows = []
        for name, value in self.to_dict().items():
            if isinstance(value, dict):
                own = ", ".join(f"{key} = {part}" for key, part in value.items() if key != "name")
                value = f"{value['name']} ({own})" if "name" in value and own else value.get("name", own)
            if name not in ("name", "summary"):
                rows.append((name, value))
        summary = f": {self.summary}" if self.summary else ""
        return html_table(f"strategy {self.name}{summary}", (), rows)

    def apply(
        self, model: nn.Module, *, spans: Tensor | None = None, encoder: EncoderSeen | None = None
    ) -> AbstractContextManager[Trace]:
        """Works inside `model` while the context is open; yields a trace of what happened at each layer.

        Args:
            model: a transformers model of an installed family. On leaving it is as it was.
            spans: int [batch, positions], which clip each prompt position belongs to (0: none); only needed if the
                model is called with ``inputs_embeds``.
            encoder: what the audio encoder attended to (`fastadasp.engine.encoder.EncoderSeen`); only needed with
                ``inputs_embeds``, by strategies that need ``encoder``.
        """
        from fastadasp.engine.apply import apply_strategy

        return apply_strategy(self, model, spans=spans, encoder=encoder)

    def calibrated(self, model: LoadedModel, examples: Sequence[Example], *, cached: bool = True) -> Strategy:
        """The strategy with its start layer chosen on these examples (their references are not looked at).

        `model` is from `fastadasp.load_model`; an earlier choice is reused if `cached` and nothing changed.
        Raises StrategyError if the selector needs no calibration, or no layer meets the budget.
        """
        from fastadasp.selection.select import at_layer, select_layer

        return at_layer(self, select_layer(model, self, examples, cached=cached).choice.layer)


def _read(item: object) -> store.ReadRecipe:
    """A recipe as a plugin hands it over: a path, a table or a strategy."""
    if isinstance(item, Strategy):
        return store.ReadRecipe(item.name, item)
    if not isinstance(item, dict | str | Path):
        return store.ReadRecipe(None, None, f"{describe(item)} is not a path, a dictionary or a Strategy")
    file = None if isinstance(item, dict) else Path(item)
    name = None if file is None else file.stem  # what a person would ask for, should the file be unreadable
    try:
        data = item if isinstance(item, dict) else read_toml(item)
        name = data.get("name", name)
        return store.ReadRecipe(name, Strategy.from_dict(data, file=file), file=file)
    except FastAdaSPError as error:
        return store.ReadRecipe(name if isinstance(name, str) else None, None, str(error))


class Registry(store.Registry):
    """Everything that is installed, strategies included."""

    def __init__(self, *, discover: bool = True) -> None:
        """Reads every installed plugin that is enabled, or none with ``discover=False``."""
        super().__init__(discover=discover, reader=_read)


def get_registry() -> store.Registry:
    """The registry of this process, read on first use, strategies included.

    Example::

        >>> "weighted" in [entry.name for entry in fastadasp.get_registry().entries("strategy")]
        True
    """
    registry = store.get_registry()
    registry.read_recipes(_read)
    return registry


def load_strategy(name_or_path: str | os.PathLike[str] | Mapping[str, Any] | Strategy, **overrides: Any) -> Strategy:
    """A strategy by its installed name, from a recipe file, or from values at hand.

    Args:
        name_or_path: a name; a path (what ends in ``.toml`` or holds a separator); a table; or a strategy.
        **overrides: fields to change. A table merges into a section (``layers={"layer": 3}``), unless it names
            another component, which starts from its own defaults; so do dotted keys
            (``**{"schedule.name": "decay"}``). Anything else replaces: ``schedule="decay"``, ``budget=0.3``,
            ``weight=None``. ``tokens=0.3``, ``flops=0.3``, ``kv=0.3`` and ``ratio=0.3``
            stand for the budget.

    Raises:
        UnknownNameError: no strategy of this name is installed.
        PluginError: it is installed but broken.
        StrategyError: the recipe or an override is wrong.

    Example::

        >>> fastadasp.load_strategy("weighted", budget=0.3, schedule="constant").schedule.name
        'constant'
    """
    if isinstance(name_or_path, Strategy):
        strategy = name_or_path
    elif isinstance(name_or_path, Mapping):
        strategy = Strategy.from_dict(name_or_path)
    elif not isinstance(name_or_path, str | os.PathLike):
        raise StrategyError(f"a strategy is a name, a path, a table or a Strategy, not {show(name_or_path)}")
    elif _is_path(name_or_path):
        strategy = Strategy.from_toml(name_or_path)
    else:
        strategy = _installed(str(name_or_path))
    return strategy.replace(**overrides)


def _is_path(value: str | os.PathLike[str]) -> bool:
    if not isinstance(value, str):
        return True
    return value.endswith(".toml") or any(mark in value for mark in ("/", os.sep))


def _installed(name: str) -> Strategy:
    """The installed strategy of this name. Raises UnknownNameError, with a hint where a file has the name."""
    try:
        found: Strategy = get_registry().get("strategy", name)
        return found
    except UnknownNameError as error:
        if is_file(Path(f"{name}.toml")):
            raise UnknownNameError(
                "strategy", name, [e.name for e in get_registry().entries("strategy")],
                f"For the file in this folder write {name + '.toml'!r}.",
            ) from error  # fmt: skip
        raise
