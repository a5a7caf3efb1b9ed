"""``fastadasp new-plugin``: a package to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastadasp.errors import RunError


def new_plugin(
    name: Annotated[str | None, typer.Argument(help="name of the package, e.g. fastadasp-mine")] = None,
    path: Annotated[
        Path | None, typer.Option(help="folder that the package's own folder is made in; default: the present one")
    ] = None,
    single: Annotated[Path | None, typer.Option(help="write one Python file, e.g. mine.py, and no package")] = None,
) -> None:
    """Write a plugin package from a template, with tests that pass."""
    from fastadasp.registry.scaffold import write_plugin

    if name is not None and single is not None:
        raise RunError("say either the name of a package or --single FILE, not both")
    if single is not None:
        if path is not None:
            raise RunError(f"--path is about a package; name the file's folder by --single {path / single}")
        from fastadasp.registry.scaffold.single import write_single

        write_single(single)
        print(single)
        print(f"\nnext: fastadasp --plugin {single} compare --strategies {single.stem.replace('_', '-')}")
        return
    if name is None:
        raise typer.BadParameter("Missing argument 'NAME', or --single FILE")
    folder, files = write_plugin(name, path or Path())
    for file in files:
        print(file)
    print(f'\nnext: cd {folder} && pip install -e ".[test]" && pytest')
