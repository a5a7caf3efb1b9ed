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
from fastadasp.cli.terminal import Bar, asking_about_downloads, interruptible, print_table, say, split
from fastadasp.errors import RunError

if TYPE_CHECKING:
    from fastadasp.experiments.study import DryRun, Report


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
    positions: Annotated[str | None, typer.Option(help="original, compact, or all")] = None,
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
    baseline: Annotated[
        str | None, typer.Option(help="what differences are taken against: full (default), or e.g. merger=runs")
    ] = None,
    model: options.Model = None,
    device: options.DeviceGiven = None,
    dtype: options.DtypeGiven = None,
    limit: options.Limit = None,
    batch_size: options.BatchSizeGiven = None,
    skip_bad: options.SkipBad = False,
    yes: options.Yes = False,
    output: Annotated[Path | None, typer.Option(help="folder for the report; default: runs/<time>")] = None,
    store: Annotated[
        Path | None, typer.Option(help="folder that keeps finished cells, may be shared; default: in the user's cache")
    ] = None,
    force: options.Force = False,
    retry_failed: options.RetryFailed = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the cells, those refused and an estimate of the time; run nothing")
    ] = False,
    executor: options.Executor = "local",
    workers: options.Workers = None,
    gpus_per_worker: options.Gpus = None,
    address: options.Address = None,
    wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Run every combination of parts of recipes, keep each result, and say which differences are real."""
    from fastadasp.demo import model_path
    from fastadasp.experiments.drive import Redo
    from fastadasp.experiments.spec import make_spec, read_file
    from fastadasp.experiments.study import Options, Study

    content = {} if study is None else read_file(study)
    parts = {"select": select, "weight": weight, "merger": merger, "schedule": schedule, "layers": layers}
    given = {"tasks": tasks, "strategies": strategies, **parts, "positions": positions}
    _add_axes(content, given | {"budgets": budgets, "seeds": seeds}, axis or [])
    _add_rules(content, leave_out or [], set_ or [], baseline)
    settings = {"model": model, "device": device, "dtype": dtype, "limit": limit, "batch_size": batch_size}
    content |= {
        key: value
        for key, value in {**settings, "full": full or None, "skip_bad": skip_bad or None}.items()
        if value is not None
    }
    spec = make_spec(content, usual.STUDY, "study" if study is None else f"study file {study}")
    for name, value in {"workers": workers, "gpus-per-worker": gpus_per_worker, "address": address}.items():
        if value is not None and executor == "local":
            raise RunError(
                f"--{name} needs --executor ray; without Ray, start the same command several times: the processes "
                "share the work"
            )
    folder = output or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    how = Options(
        model=str(model_path()),
        output=folder,
        store=store,
        redo=Redo(force, retry_failed),
        executor=executor,  # type: ignore[arg-type]  # Study refuses others
        workers=2 if workers is None else workers,
        gpus=gpus_per_worker,
        address=address,
    )
    found = Study(spec, how, say)
    if dry_run:
        with asking_about_downloads(yes):
            _print_dry_run(found.dry_run(), how.workers if executor == "ray" else 1, as_json)
        return
    with asking_about_downloads(yes), Bar() as bar, interruptible() as signals:
        report = found.run(bar.update)
    _print_report(report, folder, as_json, wide, signals.code)


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
    return int(text) if text.isdecimal() else text


def _print_dry_run(found: DryRun, workers: int, as_json: bool) -> None:
    from fastadasp.experiments.probe import in_words
    from fastadasp.experiments.study import refusals

    plan = found.plan
    if as_json:
        cells = [
            {"cell": p.cell, "task": p.task, "strategy": p.row.name, "axes": p.axes, "seed": p.row.seed}
            | {"budget": None if p.row.budget is None else str(p.row.budget), "done": p.cell in found.done}
            for p in plan.points
        ]
        refused = [one.model_dump(mode="json") for one in plan.refused]
        seconds = None if found.estimate is None else found.estimate.seconds / workers
        about = {"cells": cells, "refused": refused, "left_out": plan.left_out, "seconds": seconds}
        print(json.dumps(about, indent=2, ensure_ascii=False))
        return
    for point in plan.points:
        print(f"{point}{'  (done)' if point.cell in found.done else ''}")
    for reason, names in refusals(plan):
        print(f"\nrefused, {len(names)}: {reason}")
        for name in names:
            print(f"  {name}")
    todo = len(plan.points) - len(found.done)
    print(f"\n{len(plan.points)} cells, {len(found.done)} done, {todo} to do; {len(plan.refused)} refused", end="")
    print(f", {plan.left_out} left out" if plan.left_out else "")
    if found.estimate is not None:
        by = "" if workers == 1 else f" by {workers} workers"
        print(f"about {in_words(found.estimate.seconds / workers)}{by} ({found.estimate.about})")


def _print_report(report: Report, folder: Path, as_json: bool, wide: bool, cancelled: int) -> None:
    from fastadasp.experiments.differences import LESS, rich_table
    from fastadasp.experiments.study import error_of

    outcome = report.outcome
    if as_json:
        print(
            json.dumps(
                [line.model_dump(mode="json") for _, lines in report.tables for line in lines],
                indent=2,
                ensure_ascii=False,
            )
        )
    else:
        for heading, lines in report.tables:
            print_table(rich_table(heading, lines), LESS, wide)
        print(f"results: {folder}")
    points = outcome.plan.points
    if outcome.plan.refused:
        say(f"{len(outcome.plan.refused)} cells were refused; --dry-run and {folder / 'study.json'} say why")
    for point in points:
        if (error := error_of(outcome, point.cell)) is not None:
            say(f"failed: {point}: {error}")
    if outcome.status == "cancelled":
        say(f"cancelled; {len(outcome.results)} of {len(points)} cells are done; the same command goes on from here")
        raise typer.Exit(cancelled)
    if outcome.status == "failed":
        raise typer.Exit(1)
