"""``fastadasp serve``: vLLM's server, with a strategy between the audio encoder and the decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastadasp.cli.terminal import say
from fastadasp.errors import RunError, StrategyError

EVERYTHING_ELSE = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of the command: options that it does not know are vLLM's."""


def serve(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="model folder or hub id, before vLLM's options; default: the embedded model")
    ] = None,
    strategy: Annotated[str, typer.Option(help="name or TOML file of a strategy")] = "",
    budget: Annotated[
        str | None, typer.Option(help="how much to remove: 0.5 of the tokens, or ratio=0.5; default: the recipe's")
    ] = None,
    positions: Annotated[str | None, typer.Option(help="original, even or compact; default: the recipe's")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="change a field of the recipe; may repeat")] = None,
    host: Annotated[str, typer.Option(help="address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen at")] = 8000,
) -> None:
    """Serve a model over HTTP (OpenAI's API) inside vLLM, its audio shortened by a strategy.

    Options that are not named below go to vLLM as they are, e.g. --max-model-len 4096.
    """
    from fastadasp.inference.load import check_folder
    from fastadasp.serving.launch import address, checked, request_line, server_command
    from fastadasp.serving.launch import serve as run
    from fastadasp.serving.options import whole_recipe
    from fastadasp.serving.vllm import fault
    from fastadasp.strategy import parse_overrides

    if not strategy:
        raise StrategyError("name what to serve with: --strategy uniform, for example (fastadasp strategies lists all)")
    more = list(context.args)
    if model is not None and model.startswith("-"):  # an option of vLLM's, and no model
        more, model = [model, *more], None
    recipe = whole_recipe(strategy, parse_overrides(set_ or []))
    given = {"strategy": recipe, "budget": budget, "positions": positions}
    if model is None:
        from fastadasp.demo import model_path

        folder, name = str(model_path()), "embedded"
    else:
        check_folder(model)
        folder, name = model, Path(model).name if Path(model).is_dir() else model
    found = checked(folder, {key: value for key, value in given.items() if value is not None})
    if reason := fault():
        raise RunError(f"cannot serve: {reason}")
    command = server_command(folder, name, found.overrides, host, port, more)
    url = address(host, port)

    def ready(name: str | None) -> None:
        if name is None:
            say(f"serving {folder} with {found.name} at {url}/v1, for requests that bring its key; Ctrl-C ends it")
            return
        say(f"serving {folder} with {found.name} at {url}/v1 as {name!r}; Ctrl-C ends it. A request:")
        print(request_line(url, name, _clip(), "Transcribe the speech into text."), flush=True)

    code = run(command, url, ready)
    if code:
        say(f"error: vLLM's server ended with exit code {code}; its own messages say why")
        raise typer.Exit(1)


def _clip() -> Path:
    """A recording that every installation has."""
    from fastadasp.demo import data_path

    return next(iter(sorted(data_path().glob("audio/number-*.ogg"))))
