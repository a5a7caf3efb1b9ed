"""``fastadasp convert``: a checkpoint in its authors' layout becomes a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastadasp.cli.terminal import console, say
from fastadasp.convert.kinds import KINDS, convert


def convert_checkpoint(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"layout of the checkpoint: {', '.join(KINDS)}")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="the checkpoint, as its authors publish it")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="folder to be made; what is finished in it is kept")],
    llama: Annotated[
        Path | None, typer.Option(help="wavllm: folder of LLaMA-2-7B in transformers' form, for its tokenizer")
    ] = None,
) -> None:
    """Convert a checkpoint in its authors' layout into a folder for --model."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    out = console(stderr=True)
    bar = Progress(
        BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=out, transient=True, disable=not out.is_terminal
    )
    try:
        with bar:
            task = bar.add_task("", total=None)

            def progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            convert(kind, source, target, progress, llama=llama)
    except KeyboardInterrupt:
        say(f"interrupted; what is finished is in {target}. Run the same command again to go on")
        raise typer.Exit(130) from None
    print(f"model: {target}")
