"""``fastadasp compare``: strategies beside the full model."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastadasp import usual
from fastadasp.cli import options
from fastadasp.cli.terminal import Bar, asking_about_downloads, console, interruptible, print_table, say, split

if TYPE_CHECKING:
    from fastadasp.experiments.comparison import Comparison
    from fastadasp.experiments.grid import Grid


def compare(
    strategies: Annotated[
        str | None,
        typer.Option(help=f"names or TOML files of strategies, comma-separated; default: {','.join(usual.STRATEGIES)}"),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="names or TOML files of tasks, comma-separated; asr=clips.csv asks a task about clips of your own; "
            f"default: {','.join(usual.TASKS)}"
        ),
    ] = None,
    budgets: Annotated[str | None, typer.Option(help=f"{options.BUDGETS}; default: {','.join(usual.BUDGETS)}")] = None,
    preset: options.Preset = None,
    model: options.Model = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    limit: options.Limit = None,
    prompt: options.Prompt = None,
    skip_bad: options.SkipBad = False,
    yes: options.Yes = False,
    seed: Annotated[int, typer.Option(help="seed of random strategies")] = 0,
    seeds: Annotated[int, typer.Option(help="how many seeds, from --seed on, each random strategy gets")] = usual.SEEDS,
    batch_size: options.BatchSize = usual.BATCH_SIZE,
    output: Annotated[Path | None, typer.Option(help="folder for the results; default: runs/<time>")] = None,
    insert: options.Insert = None,
    set_: options.Set = None,
    wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Compare strategies with the full model: quality, tokens, cache, FLOPs and time."""
    from fastadasp.counts.budget import Budget
    from fastadasp.demo import model_path
    from fastadasp.experiments import presets
    from fastadasp.experiments import report as pages
    from fastadasp.experiments.comparison import Settings
    from fastadasp.experiments.comparison import compare as run
    from fastadasp.experiments.grid import make_grid
    from fastadasp.strategy import parse_overrides

    common = presets.Wanted(list(usual.STRATEGIES), list(usual.TASKS), list(usual.BUDGETS))
    plan = common if preset is None else presets.wanted(preset)
    plan.change(*(None if given is None else split(given) for given in (strategies, tasks, budgets)))
    with asking_about_downloads(yes):
        grid = make_grid(
            plan.strategies,
            plan.budgets,
            plan.tasks,
            overrides=parse_overrides(set_ or []),
            seed=seed,
            limit=limit,
            seeds=seeds,
            budgets_of=plan.budgets_of,
            skip_bad=skip_bad,
            notice=say,
            model=model,
            prompt=prompt,
        )
    if plan.left_out:
        print(f"preset {preset}: not installed and left out: {', '.join(plan.left_out)}", file=sys.stderr)
    if insert is not None:
        pages.check_page(insert)
    folder = output or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    arguments = {
        "preset": preset,
        "strategies": plan.strategies,
        "tasks": plan.tasks,
        "budgets": [str(budget) for budget in Budget.several(plan.budgets)],
        "budgets_of": plan.budgets_of,
        "set": set_ or [],
        "limit": limit,
        "prompt": prompt,
        "seeds": seeds,
        "batch_size": batch_size,
    }
    appendix = "" if preset is None else presets.paper_markdown(preset)
    settings = Settings(model or str(model_path()), folder, device, dtype, batch_size, seed, arguments, appendix, say)
    with Bar() as bar, interruptible() as signals:
        result = run(grid, settings, bar.update)
    if insert is not None and result.status != "cancelled":
        pages.insert(insert, result.results(grid))
    if as_json:
        print(json.dumps([cell.model_dump(mode="json") for cell in result.cells], indent=2, ensure_ascii=False))
    else:
        _print_tables(grid, result, wide)
        for table in presets.paper_tables(preset) if preset else ():
            console().print(table)
        print(f"results: {folder}")
    if result.stopped:
        say(f"failed: stopped after {len(result.cells)} of {grid.cells} cells, for all fail alike: {result.stopped}")
        raise typer.Exit(1)
    for cell in result.cells:
        if cell.error:
            print(f"failed: {cell.strategy} {cell.budget} on {cell.task}: {cell.error}", file=sys.stderr)
    if result.status == "cancelled":
        print(f"cancelled; {len(result.cells)} of {grid.cells} cells are in {folder}", file=sys.stderr)
        raise typer.Exit(signals.code)
    if result.status == "failed":
        raise typer.Exit(1)


def _print_tables(grid: Grid, result: Comparison, wide: bool) -> None:
    from fastadasp.experiments.table import LESS, rich_groups, rich_table

    for task, lines in result.results(grid):
        print_table(rich_table(task, lines), LESS, wide)
        parts = rich_groups(task, lines)
        if parts is not None:
            console().print(parts)
