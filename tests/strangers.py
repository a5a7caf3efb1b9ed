"""Distributions that lie on disk as pip would have left them, and commands that find them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

GOOD = """
    from fastadasp import Scorer, hookimpl

    class Loudness(Scorer):
        name = "NAME"
        gives = ("importance",)
        def importance(self, layer):
            return layer.hidden.float().norm(dim=-1)

    @hookimpl
    def fastadasp_scorers():
        return [Loudness]
"""


def good(name: str = "loudness") -> str:
    """A module with one sound scorer."""
    return textwrap.dedent(GOOD).replace("NAME", name)


def lay_out(folder: Path, name: str, source: str, *, attribute: str = "", metadata: bool = True) -> None:
    """A distribution of one module, `name` with underscores, and one entry point, `name`."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    if metadata:
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fastadasp]\n{name} = {module}{attribute}\n")


def fastadasp(
    *arguments: str, folder: Path | None = None, python: str = sys.executable, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command, by another process that finds what lies in `folder`."""
    environment = os.environ | ({"PYTHONPATH": str(folder)} if folder else {}) | variables
    command = [python, "-c", "from fastadasp.cli.app import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=cwd)
