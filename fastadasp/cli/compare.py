"""``fastadasp compare``: strategies beside the full model."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastadasp import usual
from fastadasp.cli import options
from fastadasp.cli.experiment import ending, executor_options, print_failures
from fastadasp.cli.terminal import Bar, asking_about_downloads, console, interruptible, print_table, say, split
from fastadasp.errors import RunError, StrategyError

if TYPE_CHECKING:
    from fastadasp.experiments.study import Findings
    from fastadasp.inference.runner import Runner


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
    baseline: Annotated[
        str, typer.Option(help="the strategy that changes are taken against, at the same budget; full: the full model")
    ] = "full",
    model: options.Model = None,
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    dtype: options.Dtype = "auto",
    limit: options.Limit = None,
    whole: options.Whole = False,
    part: options.Part = None,
    prompt: options.Prompt = None,
    skip_bad: options.SkipBad = False,
    yes: options.Yes = False,
    seed: Annotated[int, typer.Option(help="seed of random strategies")] = 0,
    seeds: Annotated[int, typer.Option(help="how many seeds, from --seed on, each random strategy gets")] = usual.SEEDS,
    batch_size: options.BatchSize = str(usual.BATCH_SIZE),
    output: Annotated[
        Path | None,
        typer.Option(help="folder for the results; the same command goes on where it stopped; default: runs/<time>"),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="folder that keeps finished cells, may be shared; default: in --output")
    ] = None,
    force: options.Force = False,
    insert: options.Insert = None,
    set_: options.Set = None,
    executor: options.Executor = "local",
    workers: options.Workers = None,
    gpus_per_worker: options.Gpus = None,
    address: options.Address = None,
    engine: Annotated[
        str, typer.Option(help="transformers, or vllm: for recipes that act before layer 0; docs/serving.md")
    ] = "transformers",
    power: options.Power = False,
    wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Compare strategies with the full model: quality, tokens, cache, FLOPs and time."""
    with Bar():  # the libraries alone take seconds
        from fastadasp.demo import model_path
        from fastadasp.experiments import pages, presets
        from fastadasp.experiments.comparison import comparison
        from fastadasp.experiments.drive import Redo
        from fastadasp.experiments.study import Options, Study
        from fastadasp.strategy import parse_overrides

    common = presets.Wanted(list(usual.STRATEGIES), list(usual.TASKS), list(usual.BUDGETS))
    plan = common if preset is None else presets.wanted(preset)
    plan.change(*(None if given is None else split(given) for given in (strategies, tasks, budgets)))
    spec = comparison(
        plan.strategies,
        plan.budgets,
        plan.tasks,
        overrides={**plan.fixed, **parse_overrides(set_ or [])},
        seed=seed,
        seeds=seeds,
        budgets_of=plan.budgets_of,
        baseline=baseline,
        preset=preset,
        model=model,
        device=device,
        dtype=dtype,
        limit=options.clips(limit, whole),
        part=part,
        device_map=device_map,
        prompt=prompt,
        batch_size=batch_size,
        skip_bad=skip_bad,
    )
    if insert is not None:
        pages.check_page(insert, preset)
    answers = _engine(engine, model or str(model_path()), plan.budgets)
    folder = output or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    how = Options(
        model=str(model_path()),
        output=folder,
        command="compare",
        store=store or folder / "store",
        redo=Redo(force, failed=True),
        appendix="" if preset is None else presets.paper_markdown(preset),
        forecast=True,
        engine=answers,
        **executor_options(executor, workers, gpus_per_worker, address),
    )
    if preset is not None:
        presets.say_names(preset, plan, say)
    with Bar("reading the clips") as bar, asking_about_downloads(yes, bar):
        study = Study(spec, how, say)
    with Bar() as bar, asking_about_downloads(yes, bar), interruptible() as signals:
        found = study.run(bar.update)
    if insert is not None and found.finished.status != "cancelled":
        pages.insert(insert, study.face, found.tables, preset)
    if as_json:
        print(json.dumps(_cells(found), indent=2, ensure_ascii=False))
    else:
        from fastadasp.experiments.tables import rich_groups, rich_table
        from fastadasp.experiments.times import rich_times

        for heading, entries in found.tables:
            face = study.face.with_power() if power else study.face
            print_table(rich_table(face, heading, entries), face.less, wide)
            if (parts := rich_groups(heading, entries)) is not None:
                console().print(parts)
            if (clock := rich_times(heading, entries)) is not None:
                console().print(clock)
            print()
        for table in presets.paper_tables(preset) if preset else ():
            console().print(table)
        print(f"results: {folder}")
    print_failures(found.finished, lambda point: f"{point.row.name} {point.row.budget} on {point.task}")
    ending(found.finished, folder, signals.code)


def _engine(name: str, model: str, budgets: list[str]) -> Runner | None:
    """What answers the clips; None for transformers. Raises RunError or StrategyError."""
    from fastadasp.counts.budget import Budget

    if name not in ("transformers", "vllm"):
        raise RunError(f"--engine is transformers or vllm, not {name!r}")
    if name == "transformers":
        return None
    from fastadasp.serving.vllm.runner import VllmRunner

    for budget in Budget.several(budgets):
        if budget.per_prompt or budget.over_run:
            what = "all clips of the run" if budget.over_run else "the whole prompt"
            raise StrategyError(f"--engine vllm: the budget {budget} depends on {what}; give a fraction, 0.5")
    return VllmRunner(model)


def _cells(found: Findings) -> list[dict[str, Any]]:
    """The cells with their costs, and what may be said of the line that each belongs to."""
    from fastadasp.experiments.folder import cell_of

    said = ("baseline", "difference", "difference_interval", "p_holm", "rank")
    lines = {(e.standing.task, e.standing.strategy, e.standing.budget): e for _, es in found.tables for e in es}
    clips = {heading.task.name: heading.clips for heading, _ in found.tables}
    out = []
    for point in found.finished.points:
        result = found.finished.results[point.cell]
        cell = cell_of(point, result, clips[point.task]).model_dump(mode="json")
        cell["efficiency"] = None if result.efficiency is None else result.efficiency.model_dump(mode="json")
        line = lines[cell["task"], cell["strategy"], cell["budget"]].standing
        out.append(cell | line.model_dump(mode="json", include=set(said)))
    return out
