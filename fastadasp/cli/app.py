"""The command line. Torch and transformers are imported only where a command needs them."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastadasp.cli import (
    ablate,
    bench,
    convert,
    inspect,
    models,
    new_plugin,
    plugins,
    report,
    select_layer,
    transcribe,
)
from fastadasp.cli.terminal import (
    WIDE,
    Bar,
    interruptible,
    print_listing,
    print_problems,
    print_table,
    say,
    tolerate_encoding,
)
from fastadasp.cli.terminal import console as _console
from fastadasp.cli.terminal import split as _split
from fastadasp.errors import FastAdaSPError, UnknownNameError
from fastadasp.registry.enabled import leaving_out
from fastadasp.registry.plugin_files import adding_files
from fastadasp.registry.registry import Registry

if TYPE_CHECKING:
    from fastadasp.experiments.comparison import Comparison
    from fastadasp.experiments.grid import Grid

app = typer.Typer(
    name="fastadasp",
    help="Shorten the audio token sequence inside speech LLMs, and compare the ways of doing so.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

STRATEGIES, TASKS, BUDGETS = "weighted,prune,random", "asr,er", "0.3,0.5,0.7"
"""What `compare` takes where neither an option nor a preset says otherwise."""

ROOT = ("--plugin", "--no-plugin")
"""Options with a value that may stand after any command."""

SEEDS = 3
"""How many seeds a random strategy gets."""


def main() -> None:
    """Entry point: errors meant for people become one message and exit code 2."""
    tolerate_encoding()
    try:
        app(_program_first(sys.argv[1:]))
    except FastAdaSPError as error:
        say(f"error: {error}")
        sys.exit(2)
    except BrokenPipeError:
        raise  # whoever read our output has seen enough; Python ends quietly
    except OSError as error:  # a full disk, or output that cannot be written
        where = "" if error.filename is None else f"{error.filename}: "
        say(f"error: {where}{error.strerror or error}")
        sys.exit(1)


def _program_first(arguments: list[str]) -> list[str]:
    """The arguments with every ``--plugin X`` and ``--no-plugin X`` in front: they concern all commands."""
    front: list[str] = []
    rest = list(arguments)
    while (place := next((i for i, a in enumerate(rest) if a.partition("=")[0] in ROOT), None)) is not None:
        if len(rest) == place + 1 and rest[place] in ROOT:
            return rest[place:]  # without a name: let typer say so
        width = 1 if "=" in rest[place] else 2
        front += rest[place : place + width]
        del rest[place : place + width]
    return front + rest


def _show_version(value: bool) -> None:
    if value:
        import fastadasp

        print(f"fastadasp {fastadasp.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
    no_plugin: Annotated[
        list[str] | None,
        typer.Option(help="a plugin that is not to load: the name of its distribution or entry point; may be repeated"),
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="a Python file with components or recipes of your own; may be repeated"),
    ] = None,
) -> None:
    if no_plugin:
        context.with_resource(leaving_out(no_plugin))
    if plugin:
        context.with_resource(adding_files(plugin))
    if no_plugin or plugin:
        context.with_resource(Registry().in_use())


@app.command()
def compare(
    strategies: Annotated[
        str | None, typer.Option(help=f"names or TOML files of strategies, comma-separated; default: {STRATEGIES}")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="names or TOML files of tasks, comma-separated; asr=clips.csv asks a task about clips of your own; "
            f"default: {TASKS}"
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            help="fractions to remove: of the audio tokens (0.3), of the decoder's prefill FLOPs (flops=0.3), of the "
            "KV bytes (kv=0.3), or a schedule's own ratio (ratio=0.3); a prefix holds until the next, as in "
            f"flops=0.1,0.2; default: {BUDGETS}"
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="paper-dense or paper-sparse: the paper's strategies, tasks and budgets, and its figures beside ours; "
            "fastadasp presets lists them"
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="model folder or hub id; default: the embedded model")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (float32 on cpu, bfloat16 on cuda), float32, bfloat16, float16")
    ] = "auto",
    limit: Annotated[int | None, typer.Option(help="clips of each task; default: all")] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="what every clip is asked, in the place of the tasks' instructions; {question} and other columns are "
            "filled in"
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="leave out rows that cannot be used, and say which; default: refuse them")
    ] = False,
    seed: Annotated[int, typer.Option(help="seed of random strategies")] = 0,
    seeds: Annotated[int, typer.Option(help="how many seeds, from --seed on, each random strategy gets")] = SEEDS,
    batch_size: Annotated[int, typer.Option(help="clips at a time")] = 12,
    output: Annotated[Path | None, typer.Option(help="folder for the results; default: runs/<time>")] = None,
    insert: Annotated[
        Path | None,
        typer.Option(help="Markdown page whose marked place is filled with the tables; docs/results-format.md"),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="change a field of every recipe, e.g. schedule.name=decay")
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help=WIDE)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the results as JSON and nothing else")] = False,
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

    usual = presets.Plan(_split(STRATEGIES), _split(TASKS), _split(BUDGETS))
    plan = usual if preset is None else presets.plan(preset)
    plan.change(*(None if given is None else _split(given) for given in (strategies, tasks, budgets)))
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
            _console().print(table)
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
    from fastadasp.experiments.table import LESS, rich_table

    for task, lines in result.results(grid):
        print_table(rich_table(task, lines), LESS, wide)


JsonFlag = Annotated[bool, typer.Option("--json", help="print as JSON")]


app.command()(select_layer.select_layer)
app.command()(ablate.ablate)
app.command("convert")(convert.convert_checkpoint)
app.command()(models.models)
app.command()(plugins.plugins)
app.command()(new_plugin.new_plugin)
app.command()(transcribe.transcribe)
app.command()(report.report)
app.command()(inspect.inspect)
app.add_typer(bench.app, name="bench")


@app.command()
def strategies(as_json: JsonFlag = False) -> None:
    """List the strategies that are installed, with their parts and origin."""
    from fastadasp.registry.registry import get_registry

    listed: list[dict[str, Any]] = []
    for entry in get_registry().entries("strategy"):
        recipe = entry.value.to_dict()
        parts = {p: recipe[p]["name"] for p in ("select", "weight", "merger", "schedule", "layers") if recipe.get(p)}
        needs = sorted(entry.value.needs())
        origin = _origin(entry.origin)
        place = {"site": recipe["site"], "needs": needs, "origin": origin}
        listed.append({"name": entry.name, "summary": entry.summary, **parts, **place})
    if as_json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    columns = ("name", "select", "weight", "merger", "schedule", "layers", "site", "needs", "origin")
    shown = [{**row, "needs": ", ".join(row["needs"]) or "-"} for row in listed]
    print_listing("strategies", columns, [[str(row.get(column, "-")) for column in columns] for row in shown])
    print_problems()


@app.command()
def tasks(as_json: JsonFlag = False) -> None:
    """List the tasks that are installed."""
    from fastadasp.registry.registry import get_registry

    listed = [
        {
            "name": e.name,
            "kind": e.value.kind,
            "metric": e.value.metric,
            "summary": e.value.summary,
            "origin": _origin(e.origin),
        }
        for e in get_registry().entries("task")
    ]
    if as_json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    columns = ("name", "kind", "metric", "summary", "origin")
    print_listing("tasks", columns, [[row[column] for column in columns] for row in listed])
    print_problems()


@app.command("presets")
def list_presets(as_json: JsonFlag = False) -> None:
    """List the presets of compare: the paper's tables, and which of their methods are installed."""
    from fastadasp.experiments.presets import read_paper

    listed: list[dict[str, Any]] = []
    for name, preset in read_paper().presets.items():
        found = {method.title: method.installed() for method in preset.methods}
        listed.append({"name": name, "summary": preset.summary, "tasks": list(preset.tasks), "methods": found})
    if as_json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    lines = []
    for row in listed:
        methods = ", ".join(f"{title}: {here or 'not installed'}" for title, here in row["methods"].items())
        lines.append([row["name"], row["summary"], ", ".join(row["tasks"]), methods])
    print_listing("presets", ("name", "summary", "tasks", "methods"), lines)


def _origin(origin: Any) -> str:
    return f"{origin.distribution} {origin.version}"


__all__ = ["UnknownNameError", "app", "main"]
