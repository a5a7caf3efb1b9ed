"""``fastadasp leaderboard``: submissions on one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fastadasp.cli.options import Json
from fastadasp.cli.terminal import Bar, say


def leaderboard(
    files: Annotated[list[Path], typer.Argument(help="files that fastadasp submit wrote")],
    output: Annotated[Path, typer.Option(help="page to write")] = Path("leaderboard.html"),
    as_json: Json = False,
) -> None:
    """Check submissions, rank what may be compared, and write one page with tables, plots and Pareto fronts."""
    from fastadasp.files import told, write_whole
    from fastadasp.leaderboard.boards import boards_of
    from fastadasp.leaderboard.page import COLUMNS, cells, html
    from fastadasp.leaderboard.submission import read_submission

    submissions = [read_submission(path) for path in files]
    boards = boards_of(submissions)
    if as_json:
        listed = [
            {
                "task": board.task.name,
                **board.task.facts.model_dump(),
                "apart": board.apart,
                "rows": [dict(zip(COLUMNS, cells(entry), strict=True)) for entry in board.entries],
            }
            for board in boards
        ]
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    with told(output, "leaderboard"):
        output.parent.mkdir(parents=True, exist_ok=True)
        with Bar("drawing the boards"):
            page = html(submissions, boards)
        write_whole(output, page)
    say(f"leaderboard: {output} ({len(submissions)} submissions, {len(boards)} boards)")
    for board in boards:
        if board.apart:
            clips = f"{board.task.clips} clips, {board.task.facts.data[:12]}"
            say(f"note: rows of {board.task.name} ({clips}) stand apart: {' and '.join(board.apart)}")
