"""The command line. Torch and transformers are imported only where a command needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fastadasp.cli import (
    ablate,
    bench,
    cache,
    compare,
    convert,
    export_embeddings,
    inspect,
    leaderboard,
    models,
    new_plugin,
    plugins,
    presets,
    report,
    select_layer,
    serve,
    strategies,
    submit,
    tasks,
    transcribe,
)
from fastadasp.cli.terminal import say, tolerate_encoding
from fastadasp.errors import FastAdaSPError
from fastadasp.registry.enabled import leaving_out
from fastadasp.registry.plugin_files import adding_files
from fastadasp.strategy import Registry

app = typer.Typer(
    name="fastadasp",
    help="Shorten the audio token sequence inside speech LLMs, and compare the ways of doing so.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ROOT = ("--plugin", "--no-plugin")
"""Options with a value that may stand after any command."""


def main() -> None:
    """Entry point: errors meant for people become one message and exit code 2."""
    tolerate_encoding()
    try:
        app(_program_first(sys.argv[1:]))
    except FastAdaSPError as error:
        say(f"error: {error}")
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        from fastadasp.inference.machine import out_of_memory

        if not out_of_memory(error):
            raise
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        say(f"error: memory ran out ({why}); use fewer clips at a time, a smaller model or --dtype bfloat16")
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
        from fastadasp.version import installed_version

        print(f"fastadasp {installed_version()}")
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


app.command()(compare.compare)
app.command()(select_layer.select_layer)
app.command()(ablate.ablate)
app.command("convert")(convert.convert_checkpoint)
app.command()(models.models)
app.command()(plugins.plugins)
app.command()(new_plugin.new_plugin)
app.command()(transcribe.transcribe)
app.command()(report.report)
app.command()(submit.submit)
app.command()(leaderboard.leaderboard)
app.command()(export_embeddings.export_embeddings)
app.command(context_settings=serve.EVERYTHING_ELSE)(serve.serve)
app.command()(inspect.inspect)
app.command()(strategies.strategies)
app.command()(tasks.tasks)
app.command()(presets.presets)
app.command()(cache.cache)
app.add_typer(bench.app, name="bench")

__all__ = ["app", "main"]
