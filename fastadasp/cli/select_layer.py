"""``fastadasp select-layer``: choose a start layer on a few clips, or sweep all of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastadasp.cli import options
from fastadasp.cli.terminal import Bar, console, say, split
from fastadasp.errors import RunError, StrategyError
from fastadasp.files import told, write_whole

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fastadasp.contracts.task import Example, Task
    from fastadasp.experiments.sweep import Sweep
    from fastadasp.selection.choice import Selection
    from fastadasp.selection.curve import Panel
    from fastadasp.strategy import Strategy


FIXED = {
    "flops": "all that a sweep tries is compared at one budget; --budget flops=0.2,flops=0.3 sweeps at several",
    "layer": "the layer is what a selector chooses, and a sweep runs every one of them",
}
"""Parameters that every layer selector has and that a sweep cannot vary, with the reason."""


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    tasks: list[str]
    strategies: list[str]
    budgets: list[str]
    selector: str
    model: str
    clips: int
    limit: int | None
    part: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    prompt: str | None = None
    named: str | None = None
    """The model as it was named, if it was: some tasks ask its family in words of its own."""
    overrides: dict[str, Any] = field(default_factory=dict)
    vary: list[str] = field(default_factory=list)
    sweep: bool = False
    cached: bool = True
    plot: Path | None = None
    output: Path | None = None
    as_json: bool = False


def select_layer(
    task: Annotated[str, typer.Option(help="names of tasks, comma-separated, as for compare")],
    strategy: Annotated[str, typer.Option(help="names or TOML files of strategies, comma-separated")] = "weighted",
    budget: Annotated[
        str, typer.Option(help="budgets, as for compare; candidate layers are compared at one of FLOPs")
    ] = "flops=0.3",
    selector: Annotated[
        str, typer.Option(help="layer selector of recipes that have none to calibrate")
    ] = "transfer-entropy",
    clips: Annotated[int, typer.Option(help="calibration clips")] = 16,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="run the task at every candidate layer and compare with the estimate")
    ] = False,
    vary: Annotated[
        list[str] | None, typer.Option("--vary", help="with --sweep: selector parameters to try, e.g. k=3,5")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="with --sweep: clips of the task; default: as for compare")] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="with --sweep: choosing or reporting, the part of the clips that the task is run on; those that a "
            "layer is chosen on are never among them"
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="draw the curve into this PNG or SVG file")] = None,
    output: Annotated[Path | None, typer.Option(help="write all figures into this JSON file")] = None,
    model: options.Model = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    prompt: options.Prompt = None,
    set_: options.Set = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="choose anew and keep nothing")] = False,
    as_json: options.Json = False,
) -> None:
    """Choose the layer that a strategy starts at, on a few clips of a task."""
    from fastadasp.demo import model_path
    from fastadasp.strategy import parse_overrides

    request = Request(
        tasks=split(task),
        strategies=split(strategy),
        budgets=split(budget),
        selector=selector,
        model=model or str(model_path()),
        clips=clips,
        limit=limit,
        part=part,
        device=device,
        dtype=dtype,
        prompt=prompt,
        named=model,
        overrides=parse_overrides(set_ or []),
        vary=vary or [],
        sweep=sweep,
        cached=not no_cache,
        plot=plot,
        output=output,
        as_json=as_json,
    )
    run(request, console())


def run(request: Request, out: Console) -> None:
    """Chooses layers, prints and draws the curves. Raises FastAdaSPError before anything heavy where it can."""
    from fastadasp.experiments.axes import asked, find_task
    from fastadasp.inference.load import check_folder, load_model
    from fastadasp.selection.curve import check_picture, draw
    from fastadasp.selection.select import calibration_examples

    for name, given in (("task", request.tasks), ("strategy", request.strategies), ("budget", request.budgets)):
        if not given:
            raise RunError(f"no {name} given")
    if request.clips < 1 or (request.limit is not None and request.limit < 1):
        raise RunError("numbers of clips are at least 1")
    if request.vary and not request.sweep:
        raise RunError("--vary tries parameters against the outcome; it needs --sweep")
    if request.part and not request.sweep:
        raise RunError("--part says what the outcome is measured on; it needs --sweep")
    if request.limit is not None and not request.sweep:
        raise RunError(
            "--limit says on how many clips the outcome is measured; it needs --sweep (--clips: to choose on)"
        )
    if request.plot:
        check_picture(request.plot)
    if request.output and not request.output.absolute().parent.is_dir():
        raise RunError(f"--output {request.output}: there is no folder {request.output.absolute().parent}")
    if request.output and request.output.is_dir():
        raise RunError(f"--output {request.output} is a folder; name a file in it")
    recipes = _recipes(request)
    with Bar("reading the clips"):
        tasks = [asked(find_task(text), request.named, request.prompt) for text in request.tasks]
        examples = [calibration_examples(task, request.clips) for task in tasks]
    check_folder(request.model)
    with Bar("loading the model"):
        loaded = load_model(request.model, request.device, request.dtype)

    from fastadasp.experiments import curves

    records: list[Any] = []
    panels: list[Panel] = []
    for task, calibration in zip(tasks, examples, strict=True):
        for note in loaded.knows.notes(task.name, calibration[0]):
            say(note)
        if request.sweep:
            for swept in _sweeps(request, loaded, task, recipes, calibration):
                records.append(swept)
                panels.append(curves.sweep_panel(swept))
                _show(request, out, records, curves.sweep_table(swept))
        else:
            for made in _choices(request, loaded, task, recipes, calibration):
                records.append(made)
                panels.append(curves.choice_panel(task.name, made))
                _show(request, out, records, curves.choice_table(task.name, made))
    if request.plot:
        draw(request.plot, panels)
        say(f"picture: {request.plot}")
    if request.as_json:
        print(_json(records))
    elif request.sweep:
        out.print(curves.summary_table(records))
    if request.output:
        say(f"figures: {request.output}")


def _show(request: Request, out: Console, records: list[Any], table: Table) -> None:
    """Prints what was just found and keeps the figures so far."""
    if not request.as_json:
        out.print(table)
    if request.output is None:
        return
    with told(request.output, "--output"):
        write_whole(request.output, _json(records) + "\n")


def _json(records: Sequence[Any]) -> str:
    return json.dumps([record.model_dump(mode="json") for record in records], indent=1, ensure_ascii=False)


def _recipes(request: Request) -> list[list[Strategy]]:
    """For each strategy and budget: the recipe with every layer selector that is to be tried."""
    from fastadasp.counts.budget import Budget
    from fastadasp.strategy import load_strategy, parse_overrides

    choices = []
    for item in request.vary:
        key, equals, values = (part.strip() for part in item.partition("="))
        if not equals or not values:
            raise RunError(f"--vary {item!r}: write parameter=value,value, e.g. k=3,5")
        if key in FIXED:
            raise RunError(f"--vary {item!r}: {FIXED[key]}")
        choices.append([parse_overrides([f"layers.{key}={value.strip()}"]) for value in values.split(",")])
    variants = [dict(itertools.chain(*(part.items() for part in parts))) for parts in itertools.product(*choices)]
    out = []
    for name in request.strategies:
        recipe = load_strategy(name)
        if not _calibrates(recipe):
            recipe = recipe.replace(layers=request.selector)
        recipe = recipe.replace(**request.overrides)
        if _calibrates(recipe):
            recipe = recipe.replace(layers=recipe.layers.model_copy(update={"layer": None}))
        for budget in Budget.several(request.budgets):
            out.append(_fitting(recipe.with_budget(budget), variants))
    return out


def _fitting(recipe: Strategy, variants: Sequence[dict[str, Any]]) -> list[Strategy]:
    """The recipe's variants whose parameters fit together. Raises StrategyError for a value that fits in none."""
    made: list[tuple[dict[str, Any], Strategy]] = []
    faults: list[tuple[dict[str, Any], StrategyError]] = []
    for variant in variants:
        try:
            made.append((variant, recipe.replace(**variant)))
        except StrategyError as error:
            faults.append((variant, error))
    for variant, fault in faults:
        if any(all(other[key] != value for other, _ in made) for key, value in variant.items()):
            raise fault
    return [strategy for _, strategy in made]


def _calibrates(recipe: Strategy) -> bool:
    from fastadasp.selection.calibrated import CalibratedSelector

    return isinstance(recipe.layers, CalibratedSelector)


def _choices(
    request: Request,
    loaded: Any,
    task: Task,
    recipes: Sequence[list[Strategy]],
    calibration: tuple[list[Example], str],
) -> Iterator[Selection]:
    """Every recipe's choice on one task."""
    from fastadasp.selection.select import select_layer

    for (recipe,) in recipes:
        with Bar(f"{task.name}: encoding") as bar:
            made = select_layer(
                loaded,
                recipe,
                calibration[0],
                label=task.name,
                clips_from=calibration[1],
                max_new_tokens=task.max_new_tokens,
                cached=request.cached,
                notice=say,
                progress=bar.update,
            )
        yield made


def _sweeps(
    request: Request,
    loaded: Any,
    task: Task,
    recipes: Sequence[list[Strategy]],
    calibration: tuple[list[Example], str],
) -> Iterator[Sweep]:
    """Every recipe's choice on one task, and what the task loses at every layer."""
    from fastadasp.experiments.sweep import sweep
    from fastadasp.inference.clips import prepare

    examples = _outcome_clips(request, task, calibration[0])
    every = [*examples, *calibration[0]]
    with Bar(f"{task.name}: encoding") as bar:
        ready = prepare(loaded, every, 12, lambda done: bar.update(f"{task.name}: encoding", done, len(every)))

    def chosen(given: Sequence[Example]) -> list[Any]:
        return [ready[str(e.audio), e.instruction] for e in given]

    for variants in recipes:
        seen = (chosen(calibration[0]), calibration[1])
        with Bar(f"{task.name}: choosing") as bar:
            swept = sweep(loaded, variants, task, chosen(examples), seen, progress=bar.update)
        yield swept


def _outcome_clips(request: Request, task: Task, calibration: Sequence[Example]) -> list[Example]:
    """The clips that the task is run on: none of those that layers are chosen on. Raises FastAdaSPError."""
    if request.part is not None:
        task = task.of_part(request.part)
    seen = {example.audio for example in calibration}
    most = request.limit or (task.usual if request.part is None else None)
    found = task.examples(None if most is None else most + len(calibration))
    apart = [example for example in found if example.audio not in seen][:most]
    if not apart:
        raise RunError(
            f"--sweep: all {len(found)} clips of {task.name} are those that the layer is chosen on; "
            "--clips takes fewer of them"
        )
    return apart
