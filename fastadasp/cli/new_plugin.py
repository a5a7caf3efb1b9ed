"""``fastadasp new-plugin``: a package to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new_plugin(
    name: Annotated[str, typer.Argument(help="name of the package, e.g. fastadasp-mine")],
    path: Annotated[Path, typer.Option(help="folder that the package's own folder is made in")] = Path("."),
) -> None:
    """Write a plugin package from a template, with tests that pass."""
    from fastadasp.registry.scaffold import write_plugin

    folder, files = write_plugin(name, path)
    for file in files:
        print(file)
    print(f'\nnext: cd {folder} && pip install -e ".[test]" && pytest')
