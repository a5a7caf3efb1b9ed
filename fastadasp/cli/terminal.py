"""What commands share: lists in an option, the console, listings, sentences on stderr."""

from __future__ import annotations

import signal
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fastadasp.registry.plugin import Origin

WIDTH = 120
"""Columns that a table needs; used where the output is not a terminal."""


COMMAS = 20
"""Most parts that are tried as one path."""


def tolerate_encoding() -> None:
    """Lets stdout print ``?`` for what its encoding lacks, in the place of failing after the work is done."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def split(text: str) -> list[str]:
    """The parts of a comma-separated option. A comma in the path of something that is there divides nothing."""
    pieces, parts = text.split(","), []
    while pieces:
        length = next((n for n in range(min(len(pieces), COMMAS), 1, -1) if _is_there(",".join(pieces[:n]))), 1)
        parts.append(",".join(pieces[:length]).strip())
        del pieces[:length]
    return [part for part in parts if part]


def _is_there(text: str) -> bool:
    """Whether a part names a path, alone or as ``name=path``."""
    name, _, behind = text.partition("=")
    for path in (text, "" if "," in name else behind):
        try:
            if path and Path(path.strip()).exists():
                return True
        except (OSError, ValueError):  # too long for a name, or with a zero byte
            continue
    return False


def console(*, stderr: bool = False) -> Console:
    """A console that is wide enough for tables."""
    from rich.console import Console

    made = Console(stderr=stderr, markup=False)  # names from elsewhere are text, whatever brackets they hold
    return made if made.is_terminal else Console(stderr=stderr, width=max(made.width, WIDTH), markup=False)


def say(message: str) -> None:
    """A sentence on stderr."""
    print(message, file=sys.stderr)


def print_table(table: Table, less: Sequence[str], wide: bool = False) -> None:
    """Prints a table of results in the terminal's columns; in full where nobody's terminal is in the way.

    Args:
        less: columns that a narrow terminal does without, the first to go first; a line below says which went.
        wide: print every column, however narrow the terminal is.
    """
    shown = console()
    every = shown.options.update(width=10_000)

    def needed() -> int:
        return int(table.__rich_measure__(shown, every).maximum)

    if wide or not shown.is_terminal:
        shown.width = max(shown.width, needed())
        shown.print(table)
        return
    left_out = []
    for name in less:
        if needed() <= shown.width:
            break
        if any(column.header == name for column in table.columns):
            table.columns = [column for column in table.columns if column.header != name]
            left_out.append(name)
    for place, column in enumerate(table.columns):
        column._index = place
        column.no_wrap = needed() <= shown.width  # what is still too wide is folded, never cut off
        column.overflow = "fold"
    shown.print(table)
    if left_out:
        hint = f"left out to fit {shown.width} columns: {', '.join(left_out)}; --wide shows them"
        print(textwrap.fill(hint, shown.width, break_long_words=False))


class Signals:
    """How a command was told to end; `code` is the exit code that says so."""

    code = 128 + signal.SIGINT


@contextmanager
def interruptible() -> Iterator[Signals]:
    """Lets SIGTERM and SIGHUP, which job schedulers send, end a run as Ctrl-C does: what is done stays.

    A signal that is ignored, as `nohup` has SIGHUP, stays so.
    """
    told, before = Signals(), {}

    def stop(number: int, _frame: object) -> None:
        told.code = 128 + number
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        wanted = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_listing(title: str, columns: tuple[str, ...], lines: list[list[str]]) -> None:
    """A table of what is installed."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", max_width=60, no_wrap=not place)  # a name is typed as it stands
    for line in lines:
        table.add_row(*line)
    shown = console()
    if not shown.is_terminal:  # nobody's window to fit into
        shown.width = max(shown.width, table.__rich_measure__(shown, shown.options.update(width=10_000)).maximum)
    shown.print(table)


def origin_of(origin: Origin) -> str:
    """Which distribution brings something, and its version."""
    return f"{origin.distribution} {origin.version}"


def print_problems() -> None:
    """What is wrong with installed plugins, on stderr."""
    from fastadasp.strategy import get_registry

    for problem in get_registry().problems:
        say(f"problem: {problem}")


class Bar:
    """Progress with the time left, on stderr; silent where stderr is not a terminal.

    Args:
        what: what is being done until `update` or `busy` says something else.
        total: how much `advance` counts up to; None if that is not known yet.
    """

    def __init__(self, what: str = "starting", total: float | None = None) -> None:
        self._what, self._total = what, total

    def __enter__(self) -> Bar:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
        )
        shown = console(stderr=True)
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=shown, transient=True, disable=not shown.is_terminal
        )
        self._bar.start()
        self._task = self._bar.add_task(self._what, total=self._total)
        return self

    def update(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=what, completed=done, total=total)

    def advance(self, amount: float) -> None:
        """Counts on, by as much of the total as was done."""
        self._bar.advance(self._task, amount)

    def busy(self, what: str) -> None:
        """Says what is being done, before anything is counted."""
        self._bar.update(self._task, description=what)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Inside, it is off the terminal, so that a person can be asked something."""
        self._bar.stop()
        yield
        self._bar.start()

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


@contextmanager
def asking_about_downloads(yes: bool, bar: Bar) -> Iterator[None]:
    """Inside, large downloads are asked about on a terminal, refused elsewhere, and begun at once with `yes`.

    Args:
        bar: what is on the terminal meanwhile.
    """
    import typer

    from fastadasp.tasks.sources.downloads import asking

    def ask(question: str) -> bool:
        if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return yes
        with bar.away():
            return typer.confirm(question, err=True)

    with asking(ask):
        yield
