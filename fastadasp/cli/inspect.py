"""``fastadasp inspect``: what strategies do to the tokens of one recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastadasp.cli import options
from fastadasp.cli.terminal import Bar, console, say, split
from fastadasp.errors import RunError

if TYPE_CHECKING:
    from fastadasp.report.inspection import Inspection

PICTURES = (".png", ".svg", ".pdf")


def inspect(
    file: Annotated[Path, typer.Argument(help="a recording")],
    strategy: Annotated[str, typer.Option(help="names or TOML files of strategies, comma-separated")] = "weighted",
    budget: Annotated[
        str | None, typer.Option(help="how much to remove, as for compare: 0.5, flops=0.3; default: the recipe's")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="what the model is asked; default: to transcribe")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="what to draw, by its ending: .html, .png, .svg or .pdf; default: <name>-tokens.html here"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="most new tokens of an answer")] = 128,
    model: options.Model = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    set_: options.Set = None,
) -> None:
    """Draw which audio tokens of a recording each layer puts together, and print the answers."""
    from fastadasp.audio import check_length
    from fastadasp.demo import model_path
    from fastadasp.files import told, write_whole
    from fastadasp.inference.load import check_folder, load_model

    if max_new_tokens < 1:
        raise RunError(f"--max-new-tokens is at least 1, not {max_new_tokens}")
    path = output or Path(f"{file.stem}-tokens.html")
    if path.suffix not in (".html", *PICTURES):
        raise RunError(f"{path} ends in {path.suffix or 'nothing'!r}; write .html, {', '.join(PICTURES)}")
    recipes = [options.recipe(name, set_, budget) for name in split(strategy)]
    if not recipes:
        raise RunError("--strategy names no strategy")
    if not file.is_file():
        raise RunError(f"there is no recording {file}")
    check_length(file, None)
    if model is not None:
        check_folder(model)

    with Bar("loading the model") as bar:
        from fastadasp.report import inspection
        from fastadasp.transcribe.speech_model import TRANSCRIBE

        loaded = load_model(model or str(model_path()), device, dtype)
        if note := loaded.knows.unknown([prompt or TRANSCRIBE]):
            say(f"note: {note}")
        bar.busy("answering")
        seen = inspection.inspect(loaded, file, recipes, prompt or TRANSCRIBE, max_new_tokens)
    with Bar("drawing"), told(path, "picture"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".html":
            write_whole(path, inspection.html(seen))
        else:
            inspection.draw(seen, path)
    _show(seen)
    say(f"picture: {path}")


def _show(seen: Inspection) -> None:
    """Answers, and the token counts of each layer."""
    from rich import box
    from rich.table import Table

    names = ["full", *(f"{strategy.name}, {strategy.budget}" for strategy in seen.strategies)]
    width = max(map(len, names))
    for number, name in enumerate(names):
        print(f"{name:<{width}}  {seen.clip.answers[number]}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", justify="right")
    for name in names[1:]:
        table.add_column(f"{name}: audio tokens", justify="right")
        table.add_column("keys", justify="right")
    before = "before"
    table.add_row(before, *(text for timeline in seen.timelines for text in (str(timeline.tokens), "")))
    layers = max(len(timeline.trace) for timeline in seen.timelines)
    for layer in range(layers):
        row = [(t.trace[layer].audio_tokens, t.trace[layer].kv_length) if t.trace else ("", "") for t in seen.timelines]
        table.add_row(str(layer), *(str(number) for pair in row for number in pair))
    console().print(table)
