"""What commands share: lists in an option, the console, sentences on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 120
"""Columns that a table needs; used where the output is not a terminal."""


def split(text: str) -> list[str]:
    """The parts of a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()]


def console(*, stderr: bool = False) -> Console:
    """A console that is wide enough for tables."""
    from rich.console import Console

    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=max(made.width, WIDTH))


def say(message: str) -> None:
    """A sentence on stderr."""
    print(message, file=sys.stderr)
