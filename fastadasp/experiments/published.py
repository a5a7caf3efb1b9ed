"""Figures that papers publish beside FastAdaSP's own: what a preset runs for them, and how they are shown."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from fastadasp.strategy import get_registry


class Data(BaseModel):
    """Read from a file, once."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Named(Data):
    """A method under the name that a paper gives it.

    Attributes:
        title: the paper's name for it.
        strategies: what stands for it here; the first that is installed is taken.
    """

    title: str
    strategies: tuple[str, ...]

    def installed(self) -> str | None:
        """The strategy that stands for it, if one is installed."""
        names = {entry.name for entry in get_registry().entries("strategy")}
        return next((name for name in self.strategies if name in names), None)


class Figures(Data):
    """A table of somebody else's figures, as text.

    Attributes:
        title: whose they are, and that they are not ours.
        header: the columns; the first two name the method there and here.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Table(Data):
    """One published table: a model at one budget.

    Attributes:
        kept: fraction of the audio tokens that are left, as papers count.
        columns: test sets, or means over them.
        full: the full model's figures.
        figures: by a method's title.
    """

    model: str
    metric: str
    kept: float
    columns: tuple[str, ...]
    full: tuple[float, ...]
    figures: dict[str, tuple[float, ...]]


class Publication(Data):
    """What one source publishes, as a comparison.

    Attributes:
        tasks: those that are run here.
        fractions: of the audio tokens, removed; what is run here.
        set: fields that every recipe gets.
        note: what differs between there and here.
    """

    summary: str
    source: str
    tasks: tuple[str, ...]
    fractions: tuple[float, ...]
    set: dict[str, Any]
    note: str
    methods: tuple[Named, ...]
    tables: tuple[Table, ...]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        titles = {method.title for method in self.methods}
        for table in self.tables:
            if unknown := table.figures.keys() - titles:
                raise ValueError(f"no method is called {', '.join(sorted(unknown))}")
            if {len(table.full), *map(len, table.figures.values())} != {len(table.columns)}:
                raise ValueError(f"{table.model}: a figure for each of {len(table.columns)} columns")
        return self

    def shown(self) -> list[Figures]:
        """Its tables, each under a title that says whose they are."""
        ours = " and ".join(self.tasks)
        return [
            Figures(
                title=(
                    f"published for {table.model}, not ours: {table.metric}, {table.kept:.0%} of the audio tokens "
                    f"kept. Ours above are {ours} of the model and the clips of this run, which are others; "
                    f"{self.note} ({self.source})"
                ),
                header=("method", "here", *table.columns),
                rows=(
                    ("full model", "full", *_cells(table.full)),
                    *(
                        (method.title, method.installed() or "not installed", *_cells(table.figures[method.title]))
                        for method in self.methods
                        if method.title in table.figures
                    ),
                ),
            )
            for table in self.tables
        ]


@cache
def read_published() -> dict[str, Publication]:
    """The content of ``published.toml``, by preset."""
    text = files(__package__).joinpath("published.toml").read_text(encoding="utf-8")
    return {name: Publication.model_validate(one) for name, one in tomllib.loads(text)["presets"].items()}


def _cells(figures: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(f"{figure:.2f}" for figure in figures)
