"""The command line without the start of another process."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from fastadasp.cli.app import main


def run_whole(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    out, told, code = io.StringIO(), io.StringIO(), 0
    saved, sys.argv = sys.argv, ["fastadasp", *arguments]
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.argv = saved
    return code, out.getvalue(), told.getvalue()


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command."""
    code, _, told = run_whole(*arguments)
    return code, told


def compare(model: Path, output: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """The cells of a comparison on two clips, by strategy."""
    usual = ("--tasks", "er", "--strategies", "weighted", "--limit", "2", "--budgets", "0.5", *arguments)
    code, told = run("compare", "--model", str(model), "--output", str(output), *usual)
    assert code == 0, told
    cells = map(json.loads, (output / "results.jsonl").read_text().splitlines())
    return {cell["strategy"]: cell for cell in cells}
