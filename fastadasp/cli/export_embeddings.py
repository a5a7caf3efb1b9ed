"""``fastadasp export-embeddings``: shortened audio in a file, for engines that take embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fastadasp.cli import options
from fastadasp.cli.terminal import Bar, say
from fastadasp.errors import DataError, RunError


def export_embeddings(
    files: Annotated[list[Path], typer.Argument(help="recordings that fit the model's window")],
    output: Annotated[Path, typer.Option("--output", help="the file to write, NAME.safetensors")] = Path(
        "embeddings.safetensors"
    ),
    strategy: Annotated[
        str | None, typer.Option(help="name or TOML file of a strategy; default: none, every token stays")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="how much to remove: 0.5 of the tokens, or ratio=0.5; default: the recipe's")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="change a field of the recipe; may repeat")] = None,
    model: options.Model = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="recordings at a time")] = 8,
) -> None:
    """Write the audio tokens of recordings, shortened by a strategy, for engines that take embeddings."""
    from fastadasp.inference.load import check_folder, load_model
    from fastadasp.serving.options import strategy_for, whole_recipe
    from fastadasp.strategy import parse_overrides

    if strategy is None and (budget is not None or set_):
        raise RunError("--budget and --set are about a strategy; name one with --strategy")
    recipe = None
    if strategy is not None:
        recipe = strategy_for({"strategy": whole_recipe(strategy, parse_overrides(set_ or [])), "budget": budget})
    if missing := [path for path in files if not path.is_file()]:
        raise DataError(f"there is no recording {missing[0]}")
    if output.suffix != ".safetensors":
        raise RunError(f"--output is a file whose name ends in .safetensors, not {output}")
    if not output.absolute().parent.is_dir():
        raise RunError(f"--output {output}: there is no folder {output.absolute().parent}")
    if model is None:
        from fastadasp.demo import model_path

        model = str(model_path())
    check_folder(model)

    with Bar("loading the model") as bar:
        from fastadasp.serving.embeddings import embed, write

        loaded = load_model(model, device, dtype)
        bar.busy("encoding")
        clips = embed(
            loaded,
            recipe,
            files,
            batch_size=batch_size,
            progress=lambda done: bar.update("encoding", done, len(files)),
        )
    about = {"model": model, "weights": loaded.weights_hash, "dtype": loaded.dtype}
    if recipe is not None:
        about["strategy"] = json.dumps(recipe.to_dict())
    write(output, clips, about)
    before, after = sum(clip.tokens for clip in clips), sum(len(clip.features) for clip in clips)
    say(f"{output}: {len(clips)} recordings, {before} audio tokens became {after}")
