"""``fastadasp report``: runs on one page, or as tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastadasp.cli.terminal import Bar, say
from fastadasp.errors import RunError

PAGES = (".html", ".htm")


def report(
    runs: Annotated[list[Path], typer.Argument(help="folders that compare or ablate wrote")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="what to write, by its ending: .html (a page), .md, .csv or .tex (tables); default: report.html in "
            "the run's folder, or here if there are several"
        ),
    ] = None,
    clips: Annotated[int, typer.Option(help="clips of each task to look at and listen to; 0 for none")] = 12,
    timelines: Annotated[
        int,
        typer.Option(help="of these, for how many the tokens are followed; 0 for none, and no model is loaded"),
    ] = 2,
    plots: Annotated[
        Path | None, typer.Option(help="also draw quality against cost, PNG and SVG, into this folder")
    ] = None,
) -> None:
    """Put runs of compare and ablate together on one page: tables, plots, clips, and what happened to the tokens."""
    from fastadasp.demo import model_path
    from fastadasp.files import told, write_whole
    from fastadasp.report.export import FORMATS
    from fastadasp.report.page import html
    from fastadasp.report.plots import draw
    from fastadasp.report.report import make_report

    for name, number in {"clips": clips, "timelines": timelines}.items():
        if number < 0:
            raise RunError(f"--{name} is a number of clips, at least 0, not {number}")
    path = output or (runs[0] if len(runs) == 1 else Path()) / "report.html"
    if path.suffix not in (*PAGES, *FORMATS):
        raise RunError(f"{path} ends in {path.suffix or 'nothing'!r}; write {', '.join((PAGES[0], *FORMATS))}")
    if path.is_dir():
        raise RunError(f"{path} is a folder; name a file, e.g. {path / 'report.html'}")
    page = path.suffix in PAGES
    with Bar() as bar:
        made = make_report(
            runs,
            clips=clips if page else 0,
            timelines=timelines if page else 0,
            embedded=model_path(),
            progress=lambda what: bar.update(what, 0, 1),
        )
    text = html(made) if page else FORMATS[path.suffix](made)
    with told(path, "report"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    say(f"report: {path} ({len(text.encode()) / 1e6:.1f} MB)")
    for name, values in made.differing().items():
        say(f"note: the runs differ in {name}: {', '.join(values)}")
    for note in made.notes:
        say(f"note: {note}")
    if plots is not None:
        pictures = draw(made, plots)
        say(f"plots: {len(pictures)} in {plots}")
