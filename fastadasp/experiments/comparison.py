"""A comparison is a study: strategies x budgets x seeds x tasks, beside the full model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fastadasp import usual
from fastadasp.errors import RunError, UnknownNameError
from fastadasp.experiments.axes import FULL, Limit, whole_number
from fastadasp.experiments.spec import Spec, StudyFile, axis_values, most_seeds
from fastadasp.recipes.reading import show
from fastadasp.strategy import load_strategy


def comparison(
    strategies: Sequence[str | Path],
    budgets: Sequence[str | float],
    tasks: Sequence[str | Path],
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    seeds: int = 1,
    budgets_of: Mapping[str, Sequence[str | float]] | None = None,
    baseline: str = FULL,
    preset: str | None = None,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    limit: Limit = None,
    part: str | None = None,
    prompt: str | None = None,
    batch_size: int | str = usual.BATCH_SIZE,
    skip_bad: bool = False,
) -> Spec:
    """The study that compares strategies. Raises the error of whichever argument is wrong.

    Args:
        strategies: names or TOML files; ``all`` stands for every installed one, those of equal content once.
        budgets: amounts; the prefix of a text (``flops=0.1``) holds until the next.
        overrides: fields to change in every recipe.
        seeds: how many seeds, from `seed` on, each random strategy gets.
        budgets_of: the budgets of those strategies that do not get `budgets`.
        baseline: the strategy that differences are taken against, at the same budget; ``full`` for the full model.
        preset: where the arguments come from, for the record.
    """
    strategies, tasks = _listed("strategy", "strategies", strategies), _listed("task", "tasks", tasks)
    budgets = _listed("budget", "budgets", budgets)
    if overrides is not None and not isinstance(overrides, Mapping):
        raise RunError(f"overrides is a table of field and value, e.g. {{'layers.layer': 2}}, not {show(overrides)}")
    if not whole_number(seeds, 1):
        raise RunError(f"seeds is how many seeds a random strategy gets, at least 1, not {show(seeds)}")
    most_seeds(seeds)
    size = batch_size_of(batch_size)
    fixed = dict(overrides or {})
    first = fixed.pop("seed", seed)
    recipes = axis_values("strategies", strategies)
    names: dict[str, str] = {}
    for text in recipes.values():
        recipe = load_strategy(text, **{"seed": first, **fixed})
        names.setdefault(recipe.name, text)
        first = recipe.seed  # now it is known to be a seed
    own = {text: axis_values("budgets", amounts) for text, amounts in (budgets_of or {}).items()}
    amounts = axis_values("budgets", budgets)
    every = {**amounts, **{name: budget for amounts_of in own.values() for name, budget in amounts_of.items()}}
    axes: dict[str, dict[str, Any]] = {
        "tasks": axis_values("tasks", tasks),
        "strategies": recipes,
        "budgets": every,
        "seeds": {str(one): one for one in range(first, first + seeds)},
    }
    rules = [
        {"strategies": [text], "budgets": [name for name in every if name not in own.get(text, amounts)]}
        for text in recipes
    ]
    settings: dict[str, Any] = {"model": model, "device": device, "dtype": dtype, "limit": limit, "prompt": prompt}
    settings |= {"part": part, "batch_size": size, "skip_bad": skip_bad}
    settings |= {} if device_map is None else {"device_map": device_map}
    asked = {
        "preset": preset,
        "strategies": strategies,
        "tasks": tasks,
        "budgets": list(amounts),
        "budgets_of": {text: list(budgets) for text, budgets in own.items()},
        "set": {name: str(value) for name, value in fixed.items()},
        "seed": first,
        "seeds": seeds,
        "baseline": baseline,
        **settings,
    }
    return Spec(
        axes,
        [rule for rule in rules if rule["budgets"]],
        fixed,
        None if baseline == FULL else {"strategies": _named(baseline, names)},
        StudyFile.model_construct(**settings),
        strict=True,
        given=asked,
    )


def _listed(name: str, plural: str, values: Iterable[object]) -> list[str]:
    """What a list holds, as text. Raises RunError."""
    if isinstance(values, str | Path) or not isinstance(values, Iterable):
        raise RunError(f"{plural} is a list, e.g. [{show(values)}], not {show(values)}")
    found = [str(one) for one in values]
    if not found:
        raise RunError(f"no {name} given")
    return found


def batch_size_of(given: int | str) -> int | Literal["auto"]:
    """Clips at a time, from a number, its text or ``auto``. Raises RunError."""
    if given == "auto":
        return "auto"
    size: object
    try:
        size = int(given) if isinstance(given, str) else given
    except ValueError:
        size = given
    if not isinstance(size, int) or isinstance(size, bool):
        raise RunError(f"batch size is a number of clips, or auto, not {show(given)}")
    if size < 1:
        raise RunError(f"batch size is at least 1, not {size}")
    return size


def _named(baseline: str, names: Mapping[str, str]) -> str:
    """The strategy that is called so, by what the axis calls it. Raises UnknownNameError."""
    if baseline in names.values():
        return baseline
    if baseline not in names:
        raise UnknownNameError("baseline", baseline, [FULL, *names])
    return names[baseline]
