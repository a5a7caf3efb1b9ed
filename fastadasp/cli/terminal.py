"""What commands share: lists in an option, the console, listings, sentences on stderr."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 120
"""Columns that a table needs; used where the output is not a terminal."""


def tolerate_encoding() -> None:
    """Lets stdout print ``?`` for what its encoding lacks, in the place of failing after the work is done."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


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


def print_listing(title: str, columns: tuple[str, ...], lines: list[list[str]]) -> None:
    """A table of what is installed."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", max_width=60)
    for line in lines:
        table.add_row(*line)
    shown = console()
    if not shown.is_terminal:  # nobody's window to fit into
        shown.width = max(shown.width, table.__rich_measure__(shown, shown.options.update(width=10_000)).maximum)
    shown.print(table)


def print_problems() -> None:
    """What is wrong with installed plugins, on stderr."""
    from fastadasp.registry.registry import get_registry

    for problem in get_registry().problems:
        say(f"problem: {problem}")


class Bar:
    """Progress with the time left, on stderr; silent where stderr is not a terminal."""

    def __enter__(self) -> Bar:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description:<24}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        shown = console(stderr=True)
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=shown, transient=True, disable=not shown.is_terminal
        )
        self._bar.start()
        self._task = self._bar.add_task("starting", total=None)
        return self

    def update(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=what, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
