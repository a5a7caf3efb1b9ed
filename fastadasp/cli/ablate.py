"""``fastadasp ablate``: a study over the parts of recipes, cell by cell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastadasp import usual
from fastadasp.cli import options
from fastadasp.cli.experiment import ending, executor_options, print_failures
from fastadasp.cli.terminal import Bar, asking_about_downloads, console, interruptible, print_table, say, split
from fastadasp.errors import RunError

if TYPE_CHECKING:
    from fastadasp.experiments.study import DryRun, Findings
    from fastadasp.experiments.tables import Face


DIGITS = 18
"""Most digits of a number; what is longer stays text, which no axis of numbers takes."""


def ablate(
    study: Annotated[Path | None, typer.Argument(help="a study file (TOML); docs/studies.md has its keys")] = None,
    strategies: Annotated[
        str | None, typer.Option(help="recipes that the axes change: names or TOML files; default: weighted")
    ] = None,
    select: Annotated[str | None, typer.Option(help="scorers that choose, comma-separated, or all")] = None,
    weight: Annotated[str | None, typer.Option(help="scorers that weigh, or none, or all")] = None,
    merger: Annotated[str | None, typer.Option(help="mergers, or all")] = None,
    schedule: Annotated[str | None, typer.Option(help="schedules, or all")] = None,
    layers: Annotated[str | None, typer.Option(help="start layers: numbers and layer selectors, or all")] = None,
    positions: Annotated[str | None, typer.Option(help="original, even, compact, or all")] = None,
    axis: Annotated[
        list[str] | None, typer.Option("--axis", help="another field with its values, e.g. merger.overlap=fill,skip")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="every axis of a recipe that is not named takes all")] = False,
    budgets: Annotated[str | None, typer.Option(help="as for compare; default: 0.5")] = None,
    tasks: Annotated[str | None, typer.Option(help="as for compare; default: asr,er")] = None,
    seeds: Annotated[str | None, typer.Option(help="seeds of recipes that draw at random; default: 0")] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option("--leave-out", help="cells to pass over, e.g. merger=drop,schedule=decay")
    ] = None,
    set_: options.Set = None,
    preset: options.Preset = None,
    baseline: Annotated[
        str | None, typer.Option(help="what differences are taken against: full (default), or e.g. merger=runs")
    ] = None,
    model: options.Model = None,
    device: options.DeviceGiven = None,
    device_map: options.DeviceMap = None,
    dtype: options.DtypeGiven = None,
    limit: options.Limit = None,
    whole: options.Whole = False,
    part: options.Part = None,
    batch_size: options.BatchSizeGiven = None,
    prompt: options.Prompt = None,
    skip_bad: options.SkipBad = False,
    yes: options.Yes = False,
    output: Annotated[Path | None, typer.Option(help="folder for the report; default: runs/<time>")] = None,
    store: Annotated[
        Path | None, typer.Option(help="folder that keeps finished cells, may be shared; default: in the user's cache")
    ] = None,
    insert: options.Insert = None,
    force: options.Force = False,
    retry_failed: options.RetryFailed = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the cells, those refused and an estimate of the time; run nothing")
    ] = False,
    executor: options.Executor = "local",
    workers: options.Workers = None,
    gpus_per_worker: options.Gpus = None,
    address: options.Address = None,
    power: options.Power = False,
    wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Run every combination of parts of recipes, keep each result, and say which differences are real."""
    with Bar():  # the libraries alone take seconds
        from fastadasp.demo import model_path
        from fastadasp.experiments import pages, presets
        from fastadasp.experiments.comparison import batch_size_of
        from fastadasp.experiments.drive import Redo
        from fastadasp.experiments.spec import make_spec, read_file
        from fastadasp.experiments.study import Options, Study

    content = {} if study is None else read_file(study)
    parts = {"select": select, "weight": weight, "merger": merger, "schedule": schedule, "layers": layers}
    given = {"tasks": tasks, "strategies": strategies, **parts, "positions": positions}
    _add_axes(content, given | {"budgets": budgets, "seeds": seeds}, axis or [])
    _add_rules(content, leave_out or [], set_ or [], baseline)
    count = options.clips(limit, whole)
    settings = {"model": model, "device": device, "dtype": dtype, "limit": count, "part": part}
    settings |= {"device_map": device_map, "batch_size": None if batch_size is None else batch_size_of(batch_size)}
    settings |= {"prompt": prompt, "full": full or None, "skip_bad": skip_bad or None}
    content |= {key: value for key, value in settings.items() if value is not None}
    plan = presets.Wanted() if preset is None else presets.wanted(preset)
    common = usual.STUDY if preset is None else usual.STUDY | plan.axes()
    if fixed := {name: value for name, value in plan.fixed.items() if name not in content.get("axes", {})}:
        content["set"] = {**fixed, **content.get("set", {})}
    spec = make_spec(content, common, "study" if study is None else f"study file {study}")
    if insert is not None:
        pages.check_page(insert, preset)
    folder = output or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    how = Options(
        model=str(model_path()),
        output=folder,
        store=store,
        redo=Redo(force, retry_failed),
        appendix="" if preset is None else presets.paper_markdown(preset),
        **executor_options(executor, workers, gpus_per_worker, address),
    )
    if preset is not None:
        presets.say_names(preset, plan, say)
    with Bar("reading the clips") as bar, asking_about_downloads(yes, bar):
        found = Study(spec, how, say)
        if dry_run:
            bar.busy("estimating the time")
            dry = found.dry_run()
    if dry_run:
        _print_dry_run(dry, found.workers, as_json)
        return
    with Bar() as bar, asking_about_downloads(yes, bar), interruptible() as signals:
        findings = found.run(bar.update)
    if insert is not None and findings.finished.status != "cancelled":
        pages.insert(insert, found.face, findings.tables, preset)
    _print_findings(findings, folder, as_json, wide, found.face.with_power() if power else found.face)
    for table in presets.paper_tables(preset) if preset and not as_json else ():
        console().print(table)
    print_failures(findings.finished)
    ending(findings.finished, folder, signals.code)


def _add_axes(content: dict[str, Any], given: Mapping[str, str | None], more: Sequence[str]) -> None:
    """Puts the axes of options in place of those that a file names."""
    from fastadasp.experiments.spec import FIELDS, OUTER
    from fastadasp.strategy import parse_overrides

    axes: dict[str, Any] = {}
    for name, text in given.items():
        if text is not None:
            axes[name] = split(text) if name in OUTER else [_value(one) for one in split(text)]
            if name == "seeds":
                axes[name] = [_value(one) for one in axes[name]]
    for item in more:
        name, equals, text = (part.strip() for part in item.partition("="))
        if not equals or not name:
            raise RunError(f"--axis {item!r}: write field=value,value, e.g. merger.overlap=fill,skip")
        if name in axes:
            raise RunError(f"--axis {item!r}: axis {name!r} is given twice")
        known = name.partition(".")[0] in FIELDS
        axes[name] = [parse_overrides([f"{name}={one}"])[name] if known else one for one in split(text)]
    earlier = content.get("axes", {})
    if axes and isinstance(earlier, dict):
        content["axes"] = {**earlier, **axes}


def _add_rules(content: dict[str, Any], leave_out: Sequence[str], fixed: Sequence[str], baseline: str | None) -> None:
    """Adds cells to pass over and fixed values to those of a file, and puts another baseline in place of its own."""
    from fastadasp.strategy import parse_overrides

    if leave_out and isinstance(content.get("leave_out", []), list):
        content["leave_out"] = [*content.get("leave_out", []), *(_pairs("--leave-out", item) for item in leave_out)]
    if fixed and isinstance(content.get("set", {}), dict):
        content["set"] = {**content.get("set", {}), **parse_overrides(fixed)}
    if baseline is not None:
        content["baseline"] = _pairs("--baseline", baseline) if "=" in baseline else baseline


def _pairs(option: str, text: str) -> dict[str, Any]:
    """``axis=value,axis=value``; an amount like flops=0.3 is written budgets=flops=0.3."""
    out: dict[str, Any] = {}
    for part in split(text):
        axis, equals, value = part.partition("=")
        if not equals or not axis.strip() or not value.strip():
            raise RunError(f"{option} {text!r}: write axis=value,axis=value, e.g. merger=drop,schedule=decay")
        out[axis.strip()] = value.strip()
    return out


def _value(text: str) -> Any:
    """A whole number where there is one, else text."""
    return int(text) if text.isdecimal() and len(text) <= DIGITS else text


def _print_dry_run(found: DryRun, workers: int, as_json: bool) -> None:
    from fastadasp.experiments.probe import in_words
    from fastadasp.experiments.study import refusals

    grid = found.grid
    if as_json:
        cells = [
            {"cell": p.cell, "task": p.task, "strategy": p.row.name, "axes": p.axes, "seed": p.row.seed}
            | {"budget": None if p.row.budget is None else str(p.row.budget), "done": p.cell in found.done}
            for p in grid.points
        ]
        refused = [one.model_dump(mode="json") for one in grid.refused]
        seconds = None if found.forecast is None else found.forecast.seconds / workers
        about = {"cells": cells, "refused": refused, "left_out": grid.left_out, "seconds": seconds}
        print(json.dumps(about, indent=2, ensure_ascii=False))
        return
    for point in grid.points:
        print(f"{point}{'  (done)' if point.cell in found.done else ''}")
    for reason, names in refusals(grid):
        print(f"\nrefused, {len(names)}: {reason}")
        for name in names:
            print(f"  {name}")
    todo = len(grid.points) - len(found.done)
    print(f"\n{len(grid.points)} cells, {len(found.done)} done, {todo} to do; {len(grid.refused)} refused", end="")
    print(f", {grid.left_out} left out" if grid.left_out else "")
    if found.forecast is not None:
        by = "" if workers == 1 else f" by {workers} workers"
        print(f"about {in_words(found.forecast.seconds / workers)}{by} ({found.forecast.about})")


def _print_findings(found: Findings, folder: Path, as_json: bool, wide: bool, face: Face) -> None:
    from fastadasp.experiments.tables import rich_table

    if as_json:
        lines = [entry.standing.model_dump(mode="json") for _, entries in found.tables for entry in entries]
        print(json.dumps(lines, indent=2, ensure_ascii=False))
    else:
        for heading, entries in found.tables:
            print_table(rich_table(face, heading, entries), face.less, wide)
            print()
        print(f"results: {folder}")
    if refused := found.finished.grid.refused:
        say(f"{len(refused)} cells were refused; --dry-run and {folder / 'run.json'} say why")
