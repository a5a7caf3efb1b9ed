"""What the values of the axes stand for: strategies, budgets and tasks by name, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastadasp.contracts.task import Example, Task
from fastadasp.counts.budget import Budget
from fastadasp.errors import DataError, RunError
from fastadasp.recipes.reading import show
from fastadasp.strategy import Strategy, get_registry
from fastadasp.tasks.definition import SUFFIX, read_task
from fastadasp.tasks.manifest import ManifestTask, listing
from fastadasp.tasks.sources.address import split_task

FULL = "full"
ALL = "all"


@dataclass(frozen=True)
class Row:
    """One strategy at one budget with one seed; `strategy` None is the full model."""

    name: str
    strategy: Strategy | None
    budget: Budget | None
    seed: int


def budget_value(row: Row) -> float | str | None:
    """A row's budget as results hold it."""
    if row.budget is None:
        return None
    return row.budget.tokens if row.budget.tokens is not None else str(row.budget)


def reachable_kind(strategy: Strategy, amount: Budget) -> Budget:
    """The budget that a strategy gets where FLOPs are asked for: eviction from a cache removes none, but KV bytes."""
    return Budget(kv=amount.flops) if amount.flops is not None and strategy.site == "cache" else amount


Limit = int | Literal["all"] | None
"""Clips of each task: a number, all, or what each task usually takes."""


def read_tasks(
    tasks: Sequence[str],
    limit: Limit,
    *,
    part: str | None = None,
    skip_bad: bool = False,
    notice: Callable[[str], None] = lambda _: None,
    model: str | None = None,
    prompt: str | None = None,
) -> tuple[dict[str, Task], dict[str, list[Example]]]:
    """The tasks by name, and the first `limit` clips of each, whose recordings can be read.

    Raises the error of whichever is wrong.

    Args:
        limit: None for what each task usually takes (`Task.usual`), which `notice` is told of; "all" for all.
        part: which part of their clips the tasks read; None for their own choice.
        skip_bad: whether rows that cannot be used are left out, which `notice` is told of; otherwise they are an error.
        model: the model to be asked, folder or hub id: some tasks ask its family in words of its own.
        prompt: what every clip is asked, in the place of the tasks' own instructions.
    """
    if limit is not None and limit != ALL and not whole_number(limit, 1):
        raise RunError(f"limit is a number of clips or {ALL!r}, at least 1, not {show(limit)}")
    chosen: dict[str, Task] = {}
    for text in dict.fromkeys(tasks):
        task = asked(find_task(text), model, prompt, part)
        if task.name in chosen:
            raise RunError(f"task {task.name!r} is given twice; compare one set of clips at a time")
        chosen[task.name] = task
    heard: dict[Path, str | None] = {}
    examples: dict[str, list[Example]] = {}
    for name, task in chosen.items():
        count = most_clips(task, limit)
        found = task.read(count)
        if limit is None and count is not None and len(found.examples) == count:
            notice(f"task {name!r}: its first {count} clips; --whole takes all of them")
        faults = list(found.faults)
        if found.note:
            notice(found.note)
        examples[name] = []
        for example in found.examples:
            if example.audio not in heard:
                heard[example.audio] = _unheard(example)
            fault = heard[example.audio]
            if fault is None:
                examples[name].append(example)
            else:
                faults.append(f"{example.id}: {fault}")
        if faults and not skip_bad:
            raise DataError(listing(name, faults))
        for fault in faults:
            notice(f"task {name!r}: left out: {fault}")
        if not examples[name]:
            raise DataError(f"task {name!r}: none of its {len(faults)} rows can be used")
    return chosen, examples


def whole_number(value: object, least: int) -> bool:
    """Whether a value is a whole number, at least this one."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def expand(strategies: Sequence[str]) -> list[str]:
    """The strategies asked for, each once, with ``all`` written out."""
    names: dict[str, None] = {}
    for text in strategies:
        if text != ALL:
            names[text] = None
            continue
        contents: list[dict[str, Any]] = []
        for entry in get_registry().entries("strategy"):
            content = {k: v for k, v in entry.value.to_dict().items() if k not in ("name", "summary", "source")}
            if content not in contents:
                contents.append(content)
                names[entry.name] = None
    return list(names)


def find_task(text: str) -> Task:
    """A task by name or TOML file.

    ``name=source`` is its question and metric over other clips, ``name@revision`` its dataset of the hub at a commit.
    """
    name, revision, source = split_task(text)
    task = read_task(Path(name)) if name.endswith(SUFFIX) else get_registry().get("task", name)
    if revision:
        if not isinstance(task, ManifestTask):
            raise RunError(f"task {name!r} brings its own clips; it has no revision {revision!r}")
        task = task.at(revision)
    if not source:
        return task
    if not isinstance(task, ManifestTask):
        raise RunError(f"task {name!r} brings its own clips; it cannot be asked over {source}")
    return task.over(source)


def asked(task: Task, model: str | None, prompt: str | None, part: str | None = None) -> Task:
    """A task with the instruction that a model gets; `prompt`, if given, takes the place of the task's own.

    Args:
        part: which part of its clips the task reads; None for its own choice.

    Raises:
        RunError: the task makes its own questions.
        DataError: its clips are not parted so.
    """
    task = task if part is None else task.of_part(part)
    if prompt is not None:
        if not isinstance(prompt, str):
            raise RunError(f"prompt is a text that every clip is asked, not {show(prompt)}")
        if not isinstance(task, ManifestTask):
            raise RunError(f"task {task.name!r} makes its own questions; it cannot be asked another prompt")
        return task.asking(prompt)
    if model is None or not isinstance(task, ManifestTask) or not task.prompts:
        return task
    from fastadasp.inference.load import model_type

    return task.for_model((model, Path(model).name, model_type(model)))


def most_clips(task: Task, limit: Limit) -> int | None:
    """How many clips of a task a limit stands for at most; None for all."""
    if limit is None:
        return task.usual
    return limit if isinstance(limit, int) else None


def _unheard(example: Example) -> str | None:
    """Why a recording cannot be read; None if it can. All of it is read, so that nothing breaks once the model runs."""
    from fastadasp.audio import read_audio

    try:
        read_audio(example.audio)
    except DataError as fault:
        return str(fault)
    return None
