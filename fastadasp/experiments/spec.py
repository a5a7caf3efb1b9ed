"""What a study is: axes, what is left out of their grid, what is fixed. From a TOML file, options, or both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastadasp import usual
from fastadasp.counts.budget import Budget
from fastadasp.errors import FastAdaSPError, RunError, did_you_mean
from fastadasp.experiments.axes import ALL, FULL, Limit, expand
from fastadasp.files import parse_toml, read_text
from fastadasp.recipes.reading import SECTIONS, explain, show
from fastadasp.strategy import Strategy, get_registry
from fastadasp.tasks.sources.address import split_task

OUTER = ("tasks", "strategies", "budgets", "seeds")
"""Axes that are no field of a recipe."""
CHOICES: dict[str, tuple[str, ...]] = {
    name: get_args(Strategy.model_fields[name].annotation) for name in ("positions", "site")
}
"""Fields of a recipe that take one of a few words."""
FIELDS = (*SECTIONS, *CHOICES)
"""Fields of a recipe that can be an axis; so can their parameters, e.g. ``merger.overlap``."""
NONE = "none"
SEEDS = 1000
"""Most seeds of a random strategy."""


class StudyFile(BaseModel):
    """The keys of a study file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    axes: dict[str, list[Any]] = Field(default_factory=dict, description="values of each axis")
    leave_out: list[dict[str, Any]] = Field(
        default_factory=list, description="tables of axis and value or values; cells that match all of one are left out"
    )
    set: dict[str, Any] = Field(default_factory=dict, description="fixed fields of every recipe, as with --set")
    baseline: str | dict[str, Any] = Field(
        default=FULL, description="`full`, or a table of axis and value: what differences are taken against"
    )
    full: bool = Field(default=False, description="axes of components that are not named take all that is installed")
    model: str | None = Field(default=None, description="model folder or hub id")
    device: str = Field(default="auto", description="`auto`, `cpu` or `cuda`")
    device_map: str | None = Field(
        default=None, description="`auto` spreads the model over all devices, by the package accelerate"
    )
    dtype: str = Field(default="auto", description="`auto`, `float32`, `bfloat16` or `float16`")
    limit: Limit = Field(default=None, description='clips of each task, or "all"; by default what each usually takes')
    part: Literal["choosing", "reporting"] | None = Field(
        default=None,
        description="which part of the tasks' clips: `choosing` or `reporting`; by default their own choice",
    )
    prompt: str | None = Field(
        default=None, description="what every clip is asked, in the place of the tasks' instructions"
    )
    batch_size: int | Literal["auto"] = Field(
        default=usual.BATCH_SIZE, description="clips at a time; `auto` finds how many fit into memory"
    )
    skip_bad: bool = Field(default=False, description="leave out rows that cannot be used; otherwise they are refused")


@dataclass(frozen=True)
class Spec:
    """A study, checked as far as that goes without a model.

    Attributes:
        axes: for each axis its values by what they are called, in order.
        leave_out: for each rule the names that each axis has in what is left out.
        baseline: the names that axes have in it; None for the full model.
        strict: every recipe was asked for by name, so one that cannot be is an error, and two of equal content are two.
        given: what a command was asked, for the record; None for the axes and settings themselves.
    """

    axes: dict[str, dict[str, Any]]
    leave_out: list[dict[str, list[str]]]
    fixed: dict[str, Any]
    baseline: dict[str, str] | None
    settings: StudyFile = field(repr=False)
    strict: bool = False
    given: Mapping[str, Any] | None = None

    @property
    def recipe_axes(self) -> dict[str, dict[str, Any]]:
        """The axes that are fields of recipes."""
        return {name: values for name, values in self.axes.items() if name not in OUTER}

    def arguments(self) -> dict[str, Any]:
        """The study in plain values, for the record."""
        if self.given is not None:
            return dict(self.given)
        kept = self.settings.model_dump(exclude={"axes", "leave_out", "set", "baseline", "full"})
        axes = {name: list(values) for name, values in self.axes.items()}
        rules = {"leave_out": self.leave_out, "set": {k: str(v) for k, v in self.fixed.items()}}
        return {"axes": axes, **rules, "baseline": self.baseline or FULL, **kept}


def read_file(path: Path) -> dict[str, Any]:
    """The content of a study file. Raises RunError with its name."""
    try:
        return parse_toml(read_text(path))
    except FileNotFoundError:
        raise RunError(f"there is no study file {path}") from None
    except OSError as error:
        raise RunError(f"study file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # of TOML and of its encoding
        raise RunError(f"study file {path} is not valid TOML: {error}") from None


def make_spec(content: Mapping[str, Any], usual: Mapping[str, list[Any]], where: str = "study") -> Spec:
    """A study from the content of a file.

    Args:
        usual: values of axes that the content does not name.
        where: what errors call it.

    Raises:
        RunError: with every fault.
    """
    try:
        given = StudyFile.model_validate(dict(content))
    except ValidationError as error:
        raise _refuse(where, explain(error, StudyFile.model_fields, "key")) from None
    faults: list[str] = []
    wanted = {**usual, **given.axes}
    if given.full:
        wanted = {**{name: [ALL] for name in FIELDS}, **wanted}
    axes: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys((*OUTER, *wanted)):
        if name in wanted and _known(name, "axis", faults):
            try:
                axes[name] = axis_values(name, wanted[name])
            except FastAdaSPError as error:
                faults.append(f"`axes.{name}`: {error}")
    for name in given.set:
        if name in axes and name != "seeds":
            faults.append(f"`set.{name}`: this is an axis of the study, too; take it out of one of them")
    leave_out = [_match(f"leave_out[{i}]", rule, axes, faults) for i, rule in enumerate(given.leave_out)]
    baseline: dict[str, str] | None = None
    if isinstance(given.baseline, Mapping):
        matched = _match("baseline", given.baseline, axes, faults)
        for name in {"tasks", "seeds"} & matched.keys():
            faults.append(f"`baseline.{name}`: differences are taken within a task and over all seeds; leave it out")
        for name, labels in matched.items():
            if len(labels) > 1:
                faults.append(f"`baseline.{name}` has {len(labels)} values; a baseline has one")
        baseline = {name: labels[0] for name, labels in matched.items() if labels}
    elif given.baseline != FULL:
        faults.append(f"`baseline` is {given.baseline!r}: write {FULL!r}, or axis=value, e.g. merger=runs")
    for name in ("limit", "batch_size"):
        if isinstance(count := getattr(given, name), int) and count < 1:
            faults.append(f"`{name}` is a number of clips, at least 1, not {count}")
    if faults:
        raise _refuse(where, faults)
    return Spec(axes, leave_out, given.set, baseline, given)


def most_seeds(count: int) -> None:
    """Raises RunError if a random strategy would get more than `SEEDS` seeds."""
    if count > SEEDS:
        raise RunError(f"{count} seeds are too many: a random strategy gets at most {SEEDS}")


def label(value: Any) -> str:
    """What a value of an axis is called."""
    if isinstance(value, Mapping):
        inside = ",".join(f"{key}={label(v)}" for key, v in value.items() if key != "name")
        return f"{value.get('name', '')}({inside})"
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else str(value)


def _refuse(where: str, faults: list[str]) -> RunError:
    if len(faults) == 1:
        return RunError(f"{where}: {faults[0]}")
    return RunError(f"{where} has {len(faults)} faults:" + "".join(f"\n  - {fault}" for fault in faults))


def _known(name: str, what: str, faults: list[str]) -> bool:
    part, dot, _ = name.partition(".")
    known = [*OUTER, *FIELDS]
    if name in known or (dot and part in SECTIONS):
        return True
    faults.append(
        f"unknown {what} {name!r}.{did_you_mean(name, known)} Allowed: {', '.join(known)}, or a parameter of a "
        "component, e.g. merger.overlap"
    )
    return False


def axis_values(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """The values of an axis by what they are called. Raises FastAdaSPError."""
    if not values:
        raise RunError("an axis has at least one value")
    if name == "budgets":
        return {str(budget): budget for budget in Budget.several(values)}
    if name == "seeds":
        for value in values:
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise RunError(f"a seed is a whole number, at least 0, not {show(value)}")
        most_seeds(len(values))
    elif name in ("tasks", "strategies"):
        if wrong := [value for value in values if not isinstance(value, str)]:
            raise RunError(f"a name is text, not {show(wrong[0])}")
        values = expand(values) if name == "strategies" else list(dict.fromkeys(values))
        names = [split_task(value)[0] if name == "tasks" else value for value in values]
        if name == "tasks" and (twice := [one for one in names if names.count(one) > 1]):
            raise RunError(f"task {twice[0]!r} is given twice; study one set of clips at a time")
    elif name in FIELDS:
        values = [one for value in values for one in _installed(name, value)]
    return {(split_task(value)[0] if name == "tasks" else label(value)): value for value in values}


def _installed(field_name: str, value: Any) -> list[Any]:
    """A value of a recipe's field, or all of them for ``all``. Raises FastAdaSPError for names that nothing has."""
    choices = CHOICES.get(field_name)
    if choices is not None:
        if value == ALL:
            return list(choices)
        if value not in choices:
            raise RunError(f"{show(value)} is not one of {', '.join(choices)}.{did_you_mean(str(value), choices)}")
        return [value]
    kind = SECTIONS[field_name]
    if value == ALL:
        names: list[Any] = [entry.name for entry in get_registry().entries(kind)]
        return [*names, NONE] if field_name == "weight" else names
    name = value.get("name") if isinstance(value, Mapping) else value
    if isinstance(name, str) and not (field_name == "weight" and name == NONE):
        get_registry().get(kind, name)
    elif not isinstance(name, str) and not (field_name == "layers" and type(name) is int and name >= 0):
        number = " or the number of a layer" if field_name == "layers" else ""
        raise RunError(f"{show(value)} is neither a {kind}'s name nor a table with one{number}")
    return [value]


def _match(
    where: str, rule: Mapping[str, Any], axes: Mapping[str, Mapping[str, Any]], faults: list[str]
) -> dict[str, list[str]]:
    """What a rule says about axes, by the names of their values; faults are added to `faults`."""
    out: dict[str, list[str]] = {}
    if not rule:
        faults.append(f"`{where}` names no axis")
    for name, given in rule.items():
        if not _known(name, f"axis in `{where}`:", faults):
            continue
        if name not in axes:
            faults.append(f"`{where}.{name}`: the study has no such axis; its axes: {', '.join(axes)}")
            continue
        out[name] = []
        for value in given if isinstance(given, list) else [given]:
            called = _called(name, value)
            if called in axes[name]:
                out[name].append(called)
            else:
                guess = did_you_mean(called, axes[name])
                faults.append(f"`{where}.{name}`: {called!r} is no value of this axis.{guess} {_listing(axes[name])}")
    return out


def _called(name: str, value: Any) -> str:
    if name == "budgets":
        try:
            return str(Budget.of(value))
        except FastAdaSPError:
            return str(value)
    return label(value)


def _listing(labels: Iterable[str]) -> str:
    shown = list(labels)
    return f"Values: {', '.join(shown[:20])}{', ...' if len(shown) > 20 else ''}"
