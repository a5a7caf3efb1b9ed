"""From a study to its cells: every combination of the axes, what is refused and why."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastadasp.counts.budget import Budget
from fastadasp.errors import FastAdaSPError, RunError
from fastadasp.experiments.axes import FULL, Row, reachable_kind
from fastadasp.experiments.identity import cell_hash, cell_identity
from fastadasp.experiments.records import RefusedCell
from fastadasp.experiments.spec import Spec
from fastadasp.recipes.reading import SECTIONS
from fastadasp.strategy import Strategy, load_strategy

MOST = 200_000
"""Combinations of recipe axes that are looked at."""

Labels = dict[str, str]


@dataclass(frozen=True)
class Point:
    """One cell of a study.

    Attributes:
        labels: what strategy, recipe axes and budget are called; empty for the full model.
        cell: hash of its identity.
    """

    task: str
    labels: Labels
    row: Row
    cell: str

    @property
    def axes(self) -> Labels:
        """The recipe axes alone."""
        return {name: value for name, value in self.labels.items() if name not in ("strategies", "budgets")}

    @property
    def line(self) -> tuple[str, ...]:
        """What cells that differ in the seed alone have in common."""
        return (self.task, *self.labels.values())

    def __str__(self) -> str:
        seed = f" seed {self.row.seed}" if self.row.strategy is not None and self.row.strategy.seeded else ""
        return f"{self.task} {describe(self.labels)}{seed}"


@dataclass(frozen=True)
class Grid:
    """The cells of a study in the order of its axes, tasks first."""

    points: list[Point]
    refused: list[RefusedCell]
    left_out: int

    @property
    def study(self) -> str:
        """A hash over the cells and what they are called."""
        rows = [[point.cell, point.row.name, point.labels, point.row.seed] for point in self.points]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def describe(labels: Mapping[str, str]) -> str:
    """Axes and values in one line."""
    if not labels:
        return FULL
    rest = " ".join(f"{name}={value}" for name, value in labels.items() if name != "strategies")
    return f"{labels['strategies']} {rest}".strip()


def over_run(spec: Spec) -> bool:
    """Whether some budget speaks of all clips together, so that single clips lose unlike shares."""
    return any(Budget.of(budget).over_run for budget in spec.axes["budgets"].values())


def recipes(spec: Spec) -> tuple[list[tuple[Labels, Strategy]], list[RefusedCell], int]:
    """Every combination of strategies, recipe axes and budgets: recipes, refusals, and how many are left out.

    Raises:
        RunError: too many, or none is left.
    """
    axes = {"strategies": spec.axes["strategies"], **spec.recipe_axes}
    combinations = 1
    for values in axes.values():
        combinations *= len(values)
    if combinations > MOST:
        sizes = " x ".join(f"{len(values)} {name}" for name, values in axes.items())
        raise RunError(f"the grid has {combinations} recipes ({sizes}), more than {MOST}; name fewer values")
    made: list[tuple[Labels, Strategy]] = []
    refused: list[RefusedCell] = []
    left_out = 0
    names: dict[str, str] = {}
    for labels, values in _combinations(axes):
        wanted = [
            ({**labels, "budgets": name}, budget)
            for name, budget in spec.axes["budgets"].items()
            if not _left_out(spec, {**labels, "budgets": name})
        ]
        left_out += len(spec.axes["budgets"]) - len(wanted)
        if not wanted:
            continue
        try:
            recipe = _recipe(values, spec.fixed)
            placed = [(named, recipe.with_budget(reachable_kind(recipe, budget))) for named, budget in wanted]
        except FastAdaSPError as error:
            if spec.strict:
                raise
            refused.append(RefusedCell(axes=labels, reason=_reason(error)))
            continue
        text = labels["strategies"]
        if names.setdefault(recipe.name, text) != text:
            raise RunError(f"{names[recipe.name]} and {text} are both called {recipe.name!r}; rename one")
        made += placed
    if not made:
        why = f": {refused[0].reason}" if refused else ", since all are left out"
        raise RunError(f"the study has no cell: each of its {combinations} recipes is refused{why}")
    return made, refused, left_out


def make_grid(spec: Spec, facts: Mapping[str, Any]) -> Grid:
    """The cells, now that the model and the clips are known. Raises RunError if none is left."""
    from fastadasp.counts.schedule import check_fit

    made, refused, left_out = recipes(spec)
    fitting: list[tuple[Labels, Strategy]] = []
    for labels, recipe in made:
        try:
            if not recipe.needs_calibration:
                check_fit(recipe, facts["layers"])
            fitting.append((labels, recipe))
        except FastAdaSPError as error:
            if spec.strict:
                raise
            refused.append(RefusedCell(axes=labels, reason=_reason(error)))
    if not fitting:
        raise RunError(f"the study has no cell: each of its recipes is refused: {refused[0].reason}")
    points: list[Point] = []
    seen: dict[str, Point] = {}
    for task in facts["tasks"]:
        rows = [({}, Row(FULL, None, None, 0)), *(row for pair in fitting for row in _rows(spec, *pair))]
        for labels, row in rows:
            if _left_out(spec, {**labels, "tasks": task, "seeds": str(row.seed)}):
                left_out += 1
                continue
            point = Point(task, labels, row, cell_hash(cell_identity(row.strategy, task, facts)))
            if (first := seen.setdefault(point.cell, point)) is not point and not spec.strict:
                refused.append(
                    RefusedCell(axes={"tasks": task, **labels}, reason=f"is the same as {describe(first.labels)}")
                )
                continue
            points.append(point)
    return Grid(points, refused, left_out)


def _rows(spec: Spec, labels: Labels, recipe: Strategy) -> Iterator[tuple[Labels, Row]]:
    """A recipe with each seed that makes a difference; one that draws nothing gets seed 0."""
    budget: Budget = recipe.budget
    for seed in spec.axes["seeds"].values() if recipe.seeded else (0,):
        yield labels, Row(recipe.name, recipe.replace(seed=seed), budget, seed)


def _combinations(axes: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[Labels, dict[str, Any]]]:
    for chosen in itertools.product(*(values.items() for values in axes.values())):
        yield (
            {axis: name for axis, (name, _) in zip(axes, chosen, strict=True)},
            {axis: value for axis, (_, value) in zip(axes, chosen, strict=True)},
        )


def _left_out(spec: Spec, labels: Labels) -> bool:
    """Whether a rule names these values; it says nothing about axes that are not known yet."""
    return any(all(labels.get(axis) in names for axis, names in rule.items()) for rule in spec.leave_out)


def _recipe(values: Mapping[str, Any], fixed: Mapping[str, Any]) -> Strategy:
    """The recipe with the values of the axes. A component that it has already keeps its parameters. Raises
    FastAdaSPError."""
    overrides = dict(fixed)
    for axis, value in values.items():
        if axis == "strategies":
            continue
        if axis in SECTIONS and isinstance(value, int):
            value = {"layer": value}  # of the recipe's own selector
        elif axis in SECTIONS and isinstance(value, str) and not (axis == "weight" and value == "none"):
            value = {"name": value}
        overrides[axis] = value
    recipe = load_strategy(values["strategies"], **overrides)
    if recipe.name == FULL:
        raise RunError(f"a strategy cannot be called {FULL!r}: that is the model without any")
    return recipe


def _reason(error: FastAdaSPError) -> str:
    """A fault without the recipe's name, which all cells of a study share; several in one line."""
    text = str(error)
    if text.startswith("recipe "):
        text = text.partition(":")[2]
    return "; ".join(line.strip().removeprefix("- ") for line in text.splitlines() if line.strip())
