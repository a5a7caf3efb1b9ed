"""Presets that compare every installed strategy of a kind at equal cost: ``field.toml``."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

from fastadasp.contracts.components import Site
from fastadasp.experiments.axes import ALL, expand
from fastadasp.experiments.published import Data, Named
from fastadasp.strategy import load_strategy


class Field(Data):
    """Every strategy that acts at some sites alone, at equal budgets.

    Attributes:
        sites: where the strategies act; one with a second stage acts at two, and takes no part.
        tasks, budgets: those of the comparison.
    """

    summary: str
    sites: tuple[Site, ...]
    tasks: tuple[str, ...]
    budgets: tuple[str, ...]

    @property
    def methods(self) -> list[Named]:
        """The installed strategies, each under its own name; those of equal content once."""
        recipes = {name: load_strategy(name) for name in expand([ALL])}
        names = [name for name, recipe in recipes.items() if recipe.site in self.sites and recipe.then is None]
        return [Named(title=name, strategies=(name,)) for name in names]


@cache
def read_field() -> dict[str, Field]:
    """The presets of ``field.toml`` by name."""
    found = tomllib.loads(files(__package__).joinpath("field.toml").read_text(encoding="utf-8"))
    return {name: Field.model_validate(preset) for name, preset in found["presets"].items()}
