"""Presets: papers' comparisons as `fastadasp compare --preset` runs them, with the papers' own figures.

Names and figures of FastAdaSP's paper stand in ``paper.toml``, those of others in ``published.toml``; presets without
figures, which compare whatever is installed, in ``field.toml``. What is installed is looked up when a preset is used.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastadasp.counts.budget import BudgetKind
from fastadasp.display import markdown_table
from fastadasp.errors import RunError, UnknownNameError
from fastadasp.experiments.field import Field, read_field
from fastadasp.experiments.published import Data, Figures, Named, Publication, read_published

if TYPE_CHECKING:
    from rich.table import Table


class Method(Named):
    """One row of the paper's table.

    Attributes:
        budget: the kind of budget it gets.
        figures: for each task the paper's figures, one a fraction, in percent or points.
    """

    budget: BudgetKind = "flops"
    figures: dict[str, tuple[float, ...]]


class Preset(Data):
    """One table of the paper, as a comparison.

    Attributes:
        table: which one.
        tasks: the tasks here, each with the paper's metric.
        full: for each task the paper's figure for the full model.
    """

    summary: str
    table: str
    tasks: dict[str, str]
    full: dict[str, float]
    methods: tuple[Method, ...]


class Paper(Data):
    """Everything in ``paper.toml``; `fractions` are those of the FLOPs that the paper removes."""

    source: str
    model: str
    fractions: tuple[float, ...]
    presets: dict[str, Preset]


@dataclass
class Wanted:
    """A preset with what is installed: the arguments of a comparison.

    Attributes:
        budgets_of: the budgets of strategies that do not get the common ones.
        left_out: methods that nothing installed stands for, each with the names looked for.
        fixed: fields that every recipe gets, unless a person says otherwise.
    """

    strategies: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    budgets: list[str] = field(default_factory=list)
    budgets_of: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    fixed: dict[str, Any] = field(default_factory=dict)

    def change(self, strategies: list[str] | None, tasks: list[str] | None, budgets: list[str] | None) -> None:
        """Takes what a person gave in place of the plan's own; None for what was not given."""
        if strategies is not None:
            self.strategies, self.left_out = strategies, []
        if budgets is not None:
            self.budgets, self.budgets_of = budgets, {}
        self.tasks = self.tasks if tasks is None else tasks

    def axes(self) -> dict[str, list[Any]]:
        """The same as axes of a study. Where FLOPs are asked of a strategy that removes none, it gets KV bytes."""
        return {"tasks": list(self.tasks), "strategies": list(self.strategies), "budgets": list(self.budgets)}


@cache
def read_paper() -> Paper:
    """The content of ``paper.toml``."""
    return Paper.model_validate(tomllib.loads(files(__package__).joinpath("paper.toml").read_text(encoding="utf-8")))


def all_presets() -> dict[str, Preset | Publication | Field]:
    """Every preset by name."""
    return {**read_paper().presets, **read_published(), **read_field()}


def find_preset(name: str) -> Preset | Publication | Field:
    """A preset by name. Raises UnknownNameError."""
    presets = all_presets()
    if name not in presets:
        raise UnknownNameError("preset", name, presets)
    return presets[name]


def wanted(name: str) -> Wanted:
    """What a preset compares here. Raises RunError if none of its methods is installed."""
    preset, usual = find_preset(name), "flops"
    fractions, fixed = read_paper().fractions, dict[str, Any]()
    if isinstance(preset, Publication):
        usual, fractions, fixed = "tokens", preset.fractions, dict(preset.set)
    if isinstance(preset, Field):
        names = [method.title for method in preset.methods]
        if not names:
            raise RunError(f"preset {name!r}: no strategy of the sites {' and '.join(preset.sites)} is installed")
        return Wanted(strategies=names, tasks=list(preset.tasks), budgets=list(preset.budgets))

    def amounts(kind: str) -> list[str]:
        return [f"{kind}={fraction:g}" for fraction in fractions]

    out = Wanted(tasks=list(preset.tasks), budgets=amounts(usual), fixed=fixed)
    for method in preset.methods:
        strategy = method.installed()
        if strategy is None:
            out.left_out.append(f"{method.title} ({' or '.join(method.strategies)})")
            continue
        out.strategies.append(strategy)
        if isinstance(method, Method) and method.budget != usual:
            out.budgets_of[strategy] = amounts(method.budget)
    if not out.strategies:
        raise RunError(f"preset {name!r}: none of its methods is installed: {', '.join(out.left_out)}")
    return out


def say_names(name: str, plan: Wanted, say: Callable[[str], None]) -> None:
    """Tells which strategy is run for each of the paper's methods, and which methods nothing stands for."""
    preset = find_preset(name)
    if isinstance(preset, Field):
        say(f"preset {name} runs {len(plan.strategies)} strategies: {', '.join(plan.strategies)}")
        return
    run = [
        f"{method.title}: {strategy}"
        for method in preset.methods
        if (strategy := method.installed()) is not None and strategy in plan.strategies
    ]
    if run:
        say(f"preset {name} runs for the paper's {'; '.join(run)}")
    if plan.left_out:
        say(f"preset {name}: not installed and left out: {', '.join(plan.left_out)}")


def paper_title(preset: Preset, task: str) -> str:
    """What stands above the paper's figures for a task."""
    paper = read_paper()
    where = f"{preset.tasks[task]}; {preset.table} of {paper.source}"
    return f"{task}: the paper's figures for {paper.model}, not ours ({where})"


def paper_header() -> tuple[str, ...]:
    """Columns of a table of the paper's figures."""
    return ("method", "here", "full", *(f"-{fraction:.0%} FLOPs" for fraction in read_paper().fractions))


def paper_rows(preset: Preset, task: str) -> list[tuple[str, ...]]:
    """The paper's figures for a task, a row a method, in `paper_header`."""
    blank = ("",) * len(read_paper().fractions)
    rows: list[tuple[str, ...]] = [("full model", "full", f"{preset.full[task]:.2f}", *blank)]
    for method in preset.methods:
        figures = tuple(f"{figure:.2f}" for figure in method.figures[task])
        rows.append((method.title, method.installed() or "not installed", "", *figures))
    return rows


def figures_of(name: str) -> list[Figures]:
    """The tables that a preset stands beside."""
    preset = find_preset(name)
    if isinstance(preset, Publication):
        return preset.shown()
    if isinstance(preset, Field):
        return []
    header = paper_header()
    return [
        Figures(title=paper_title(preset, task), header=header, rows=tuple(paper_rows(preset, task)))
        for task in preset.tasks
    ]


def paper_tables(name: str) -> list[Table]:
    """The published figures for the terminal, a table a task or a model."""
    from rich import box
    from rich.table import Table

    out = []
    for figures in figures_of(name):
        table = Table(title=figures.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for place, column in enumerate(figures.header):
            table.add_column(column, justify="left" if place < 2 else "right", no_wrap=True)
        for row in figures.rows:
            table.add_row(*row)
        out.append(table)
    return out


def paper_markdown(name: str) -> str:
    """The published figures for ``table.md``."""
    lines = list[str]()
    for figures in figures_of(name):
        lines += [f"**{figures.title}**", "", *markdown_table(figures.header, figures.rows, "ll"), ""]
    return "\n".join(lines)
