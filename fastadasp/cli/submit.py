"""``fastadasp submit``: a run as one file for a leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastadasp.cli.terminal import Bar, say


def submit(
    run: Annotated[Path, typer.Argument(help="folder that compare or ablate wrote")],
    output: Annotated[
        Path | None, typer.Option(help="file to write; default: submission.json in the run's folder")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="what the model is called; default: its hub id, or the name of its folder")
    ] = None,
    no_times: Annotated[
        bool, typer.Option("--no-times", help="leave times out, e.g. where other programs ran beside the comparison")
    ] = False,
) -> None:
    """Put a run into one JSON file: results, costs, hashes of model, data and code, prompts, machine."""
    from fastadasp.demo import model_path
    from fastadasp.files import told, write_whole
    from fastadasp.leaderboard.submission import submission_of
    from fastadasp.runs import load_run

    with Bar("reading the run"):
        found = load_run(run)
        if name is None and found.source.model == str(model_path()):
            name = "the embedded model"
        made = submission_of(found, name, times=not no_times)
    path = output or run / "submission.json"
    with told(path, "submission"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, made.model_dump_json(indent=1) + "\n")
    say(f"submission: {path} ({len(made.rows)} rows, {len(made.tasks)} tasks, checksum {made.checksum[:12]})")
    for fault in made.failed:
        say(f"note: failed: {fault}")
