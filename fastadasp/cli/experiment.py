"""What `compare` and `ablate` share on the command line: where cells run, what failed, how it ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fastadasp.cli.terminal import say

if TYPE_CHECKING:
    from fastadasp.experiments.combinations import Point
    from fastadasp.experiments.drive import Finished


def executor_options(executor: str, workers: int | None, gpus: float | None, address: str | None) -> dict[str, Any]:
    """The fields of `Options` that say where cells run."""
    return {"executor": executor, "workers": workers, "gpus": gpus, "address": address}


def print_failures(finished: Finished, called: Callable[[Point], str] = str) -> None:
    """The cells that failed, with the reason, on stderr.

    Args:
        called: what a cell is called.
    """
    if finished.stopped:
        return
    for point in finished.points:
        if (error := finished.error(point)) is not None:
            say(f"failed: {called(point)}: {error}")


def ending(finished: Finished, folder: Path, cancelled: int) -> None:
    """Says how a run ended, if not well, and raises typer's Exit with its code.

    Args:
        cancelled: exit code of a run that was told to stop.
    """
    done, cells = len(finished.points), len(finished.grid.points)
    if finished.stopped:
        say(f"failed: stopped after {done} of {cells} cells, for all fail alike: {finished.stopped}")
        raise typer.Exit(1)
    if finished.status == "cancelled":
        say(f"cancelled; {done} of {cells} cells are done; the same command goes on from here, with --output {folder}")
        raise typer.Exit(cancelled)
    if finished.status == "failed":
        raise typer.Exit(1)
