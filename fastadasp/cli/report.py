"""``fastadasp report``: runs on one page, or as tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastadasp.cli.terminal import Bar, say, split
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
    clips: Annotated[
        int | None, typer.Option(help="clips of each task to look at and listen to; 0 for none; default: 12")
    ] = None,
    timelines: Annotated[
        int | None,
        typer.Option(
            help="of these, for how many the tokens are followed; 0 for none, and no model is loaded; default: 2"
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="columns of .md and .tex tables, comma-separated, e.g. strategy,budget,value,flops; default: all, in "
            ".tex those that fit a column of a paper"
        ),
    ] = None,
    caption: Annotated[str | None, typer.Option(help="caption of the .tex table")] = None,
    label: Annotated[str | None, typer.Option(help="label of the .tex table, without tab:")] = None,
    title: Annotated[str | None, typer.Option(help="title of the page; default: the runs' folders")] = None,
    note: Annotated[
        list[str] | None, typer.Option(help="a sentence for the page's top or below the table; may repeat")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="also draw quality against cost, PNG and SVG, into this folder")
    ] = None,
) -> None:
    """Put runs of compare and ablate together on one page: tables, plots, clips, and what happened to the tokens."""
    from fastadasp.demo import model_path
    from fastadasp.files import told, write_whole
    from fastadasp.report.export import FORMATS, Wanted, find_columns

    for name, number in {"clips": clips, "timelines": timelines}.items():
        if number is not None and number < 0:
            raise RunError(f"--{name} is a number of clips, at least 0, not {number}")
    path = output or (runs[0] if len(runs) == 1 else Path()) / "report.html"
    if path.suffix not in (*PAGES, *FORMATS):
        raise RunError(f"{path} ends in {path.suffix or 'nothing'!r}; write {', '.join((PAGES[0], *FORMATS))}")
    if path.is_dir():
        raise RunError(f"{path} is a folder; name a file, e.g. {path / 'report.html'}")
    page = path.suffix in PAGES
    for name, given, endings in (
        ("--columns", columns, (".md", ".tex")),
        ("--caption", caption, (".tex",)),
        ("--label", label, (".tex",)),
        ("--title", title, PAGES),
        ("--clips", clips, PAGES),
        ("--timelines", timelines, PAGES),
        ("--note", note, (*PAGES, ".md")),
    ):
        if given and path.suffix not in endings:
            raise RunError(f"{name} has no effect on {path}; it is for {' and '.join(endings)}")
    wanted = Wanted(None if columns is None else find_columns(split(columns)), caption or "", label or "")
    if columns is not None and not wanted.columns:
        raise RunError("--columns names no column")
    with Bar() as bar:
        from fastadasp.report.page import html
        from fastadasp.report.plots import draw
        from fastadasp.report.report import make_report

        made = make_report(
            runs,
            clips=(12 if clips is None else clips) if page else 0,
            timelines=(2 if timelines is None else timelines) if page else 0,
            embedded=model_path(),
            progress=lambda what: bar.update(what, 0, 1),
        )
    made.notes[:0] = note or []
    heading = title or f"fastadasp: {', '.join(source.folder.name for source in made.sources)}"
    with Bar("writing the page"):
        text = html(made, heading) if page else FORMATS[path.suffix](made, wanted)
    with told(path, "report"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    say(f"report: {path} ({len(text.encode(errors='replace')) / 1e6:.1f} MB)")
    for name, values in made.differing().items():
        say(f"note: the runs differ in {name}: {', '.join(values)}")
    for told_ in made.notes[len(note or []) :]:
        say(f"note: {told_}")
    if plots is not None:
        with Bar("drawing"):
            pictures = draw(made, plots)
        say(f"plots: {len(pictures)} in {plots}")
