"""The mean of trained models' weights: ``python -m tools.demo.average A B --out OUT``.

Models that were trained from the same weights onwards can be averaged, weight by weight, into one that is often as good
as the best of them in each respect (Wortsman et al. 2022, "Model soups").
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastadasp.errors import DataError
from tools.running import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    models: Annotated[list[Path], typer.Argument(help="two or more model folders", metavar="MODEL...")],
    out: Annotated[Path, typer.Option(help="folder for the new model")],
) -> None:
    """Average the weights of several embedded models; the processor is that of the first."""
    from tools.demo.architecture import load_model, save_model

    if len(models) < 2:
        raise DataError(f"an average needs two model folders or more, not {len(models)}")
    for folder in models:
        if not (folder / "config.json").is_file():
            raise DataError(f"{folder} is no model folder: it has no config.json")
    model, processor = load_model(models[0])
    total = model.state_dict()
    for folder in models[1:]:
        other = load_model(folder)[0].state_dict()
        shapes, others = ({name: value.shape for name, value in one.items()} for one in (total, other))
        if others != shapes:
            raise DataError(f"{folder} has other weights than {models[0]}: they cannot be averaged")
        total = {name: value + other[name] for name, value in total.items()}
    save_model(out, model, processor, {name: value / len(models) for name, value in total.items()})
    print(f"model written to {out}")


if __name__ == "__main__":
    run(app)
