"""How a tool ends: its command run, with faults as one sentence."""

from __future__ import annotations

import sys

import typer

from fastadasp.errors import FastAdaSPError


def run(app: typer.Typer) -> None:
    """Runs a command of tools; ends with exit code 2 and one sentence on stderr where something is wrong."""
    try:
        app()
    except FastAdaSPError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a file that is missing, a full disk
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
