"""``fastadasp bench``: time and memory of a model with strategies and without, and of one reduction alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fastadasp.cli import options
from fastadasp.cli.bench_served import served
from fastadasp.cli.terminal import Bar, print_table, say, split
from fastadasp.errors import RunError

app = typer.Typer(
    help="Measure time and memory; nothing is downloaded, weights are random.", invoke_without_command=True
)

DEFAULTS = {
    "shape": "tiny",
    "seconds": (30.0, 120.0, 240.0),
    "beams": (1,),
    "strategies": ("weighted", "fastadasp-dense"),
    "budgets": ("flops=0.5",),
}
"""What `bench` takes where neither an option nor a preset says otherwise."""


@app.callback()
def bench(
    context: typer.Context,
    shape: Annotated[
        str | None,
        typer.Option(help="qwen2-audio-7b, voxtral-3b, qwen2.5-omni-7b, qwen3-asr-0.6b, wavllm-7b or tiny (default)"),
    ] = None,
    seconds: Annotated[
        str | None, typer.Option(help="lengths of the recording, comma-separated; default: 30,120,240")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="recordings at a time; default: 1")] = None,
    beams: Annotated[str | None, typer.Option(help="beams of generate, comma-separated; default: 1")] = None,
    new_tokens: Annotated[int | None, typer.Option(help="tokens to generate; default: 32")] = None,
    text: Annotated[int | None, typer.Option(help="text tokens of the prompt; default: 50")] = None,
    strategies: Annotated[
        str | None, typer.Option(help="names or TOML files, comma-separated; default: weighted,fastadasp-dense")
    ] = None,
    budgets: Annotated[str | None, typer.Option(help="as for compare; default: flops=0.5")] = None,
    set_: options.Set = None,
    rounds: Annotated[int | None, typer.Option(help="interleaved rounds; default: 5")] = None,
    warmup: Annotated[int | None, typer.Option(help="rounds before, which do not count; default: 1")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="paper: its Tables 3 and 4; h100, cpu: the figures of docs/performance.md"),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    attn: Annotated[str, typer.Option(help="attention implementation: sdpa or eager")] = "sdpa",
    compiled: Annotated[
        bool | None, typer.Option("--compile", help="compile the decoding, over static caches", show_default=False)
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="transformers (default), or vllm: throughput of a server; docs/serving.md")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="with --engine vllm: model folder or hub id; default: the embedded model")
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="with --engine vllm: requests at a time, comma-separated; default: 1,8,32")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="with --engine vllm: options of its server, e.g. '--max-model-len 4096'")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="draw time and memory against length, PNG or SVG")] = None,
    wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Measure encoder, prefill, decoding, memory and the reduction's own share, strategies beside the full model."""
    if context.invoked_subcommand is not None:
        for option in context.command.params:
            source = context.get_parameter_source(option.name or "")
            if source is not None and source.name == "COMMANDLINE":
                raise RunError(f"{option.opts[0]} has no effect before {context.invoked_subcommand}; write it after")
        return

    with Bar():  # the libraries alone take seconds
        from fastadasp.bench import presets, report
        from fastadasp.inference.load import choose_device, choose_dtype
        from fastadasp.selection.curve import check_picture
        from fastadasp.strategy import parse_overrides

    chosen = presets.Preset("", (DEFAULTS,)) if preset is None else presets.find_preset(preset)
    given = {
        "shape": shape,
        "seconds": _numbers("--seconds", seconds, float),
        "batch": batch,
        "beams": _numbers("--beams", beams, int),
        "new_tokens": new_tokens,
        "text": text,
        "strategies": None if strategies is None else split(strategies),
        "budgets": None if budgets is None else split(budgets),
        "rounds": rounds,
        "warmup": warmup,
        "compiled": compiled,
    }
    of_vllm = {"model": model, "concurrency": _numbers("--concurrency", concurrency, int), "server": server}
    if engine not in (None, "transformers", "vllm"):
        raise RunError(f"--engine is transformers or vllm, not {engine!r}")
    if engine == "vllm":
        others = {"preset": preset, "plot": plot, "device": None if device == "auto" else device}
        others |= {"dtype": None if dtype == "auto" else dtype, "attn": None if attn == "sdpa" else attn}
        served({**given, **others}, of_vllm, parse_overrides(set_ or []), wide, as_json)
        return
    if strangers := [name for name, value in of_vllm.items() if value is not None]:
        raise RunError(f"--{strangers[0]} is about --engine vllm")
    if plot is not None:
        check_picture(plot)
    with Bar():
        place = choose_device(device)
    common: dict[str, Any] = {
        "device": place,
        "dtype": choose_dtype(dtype, place),
        "attention": attn,
        "overrides": parse_overrides(set_ or []),
    }
    changed = {name: value for name, value in given.items() if value is not None}
    alone: dict[str, Any] = {"device": place} | ({} if rounds is None else {"rounds": rounds})
    if dtype != "auto":  # which a preset may say itself
        changed["dtype"], alone["dtypes"] = common["dtype"], (common["dtype"],)
    plans = list[Any]()
    with Bar():
        for one in chosen.models:
            plan = _plan({**common, **one, **changed})
            if plan not in plans:  # two of a preset may differ in nothing but what an option says for both
                plans.append(plan)
    rows, operators = list[dict[str, Any]](), list[dict[str, Any]]()
    for one in chosen.operators:
        operators += _operator_rows({**one, **alone}, as_json)
    for plan in plans:
        rows += _model_rows(plan, as_json, wide)
    if plot is not None and rows:
        report.draw(plot, rows)
        say(f"picture: {plot}")
    if as_json:
        print(json.dumps([*rows, *operators], indent=1))
    elif chosen.paper:
        print_table(report.paper_table(rows, shape or report.paper()["shape"]), (), wide)


@app.command()
def operator(
    tokens: Annotated[str, typer.Option(help="audio tokens, comma-separated; 24000 take minutes")] = "64,750,3000",
    hidden: Annotated[str, typer.Option(help="channels, multiples of 128, comma-separated")] = "1024,4096",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, comma-separated")] = "float32,bfloat16",
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 7,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Time one reduction (scores, plan, means) against a plain reimplementation of the released method."""
    with Bar():  # the libraries alone take seconds
        from fastadasp.inference.load import choose_device, choose_dtype

        place = choose_device(device)
        dtypes = [choose_dtype(name, place) for name in split(dtype)]
    options = {
        "tokens": _numbers("--tokens", tokens, int),
        "hidden": _numbers("--hidden", hidden, int),
        "dtypes": dtypes,
        "rounds": rounds,
        "device": place,
    }
    found = _operator_rows(options, as_json)
    if as_json:
        print(json.dumps(found, indent=1))


def _numbers(option: str, text: str | None, kind: type[int] | type[float]) -> list[Any] | None:
    """A comma-separated option. Raises RunError."""
    if text is None:
        return None
    try:
        found = [kind(part) for part in split(text)]
    except ValueError:
        raise RunError(f"{option} {text!r}: give numbers, comma-separated") from None
    if not found:
        raise RunError(f"{option}: no number given")
    return found


def _plan(options: dict[str, Any]) -> Any:
    from fastadasp.bench.grid import Plan
    from fastadasp.bench.shapes import find_shape

    plan = Plan(**{**options, "shape": find_shape(options["shape"])})
    plan.check()
    plan.check_room()
    return plan


def _model_rows(plan: Any, as_json: bool, wide: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with _progress(as_json) as progress:
        from fastadasp.bench import grid, report

        for part in grid.run(plan, progress):
            rows += part
    if not as_json:
        print_table(report.model_table(rows), report.LESS, wide)
    return rows


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar; where none is drawn, a line on stderr for each case."""
    silent, told = as_json or sys.stderr.isatty(), set[str]()

    with Bar() as bar:

        def progress(what: str, done: int, total: int) -> None:
            bar.update(what, done, total)
            if not silent and what not in told:
                told.add(what)
                say(what)

        yield progress


def _operator_rows(options: dict[str, Any], as_json: bool) -> list[dict[str, Any]]:
    with _progress(as_json) as progress:
        from fastadasp.bench import operator as alone
        from fastadasp.bench import report

        rows = list(alone.run(**options, progress=progress))
    if not as_json:
        print_table(report.operator_table(rows), ("hidden memory",), wide=True)
    return rows
