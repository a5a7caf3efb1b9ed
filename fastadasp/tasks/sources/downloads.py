"""What may be downloaded: small datasets as they are, large ones if a person says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fastadasp.errors import DataError

LARGE = 1_000_000_000
"""Bytes above which a download is asked about."""

_ask: ContextVar[Callable[[str], bool] | None] = ContextVar("ask", default=None)


@contextmanager
def asking(ask: Callable[[str], bool]) -> Iterator[None]:
    """Inside, `ask` is called with a question before a large download, and says whether to go on."""
    token = _ask.set(ask)
    try:
        yield
    finally:
        _ask.reset(token)


def check_download(name: str, size: int | None) -> None:
    """Asks about a download that is large, or of unknown size.

    Args:
        name: of the dataset.
        size: bytes; None if it cannot be known.

    Raises:
        DataError: nobody could be asked, or the answer was no.
    """
    if size is not None and size <= LARGE:
        return
    text = "of unknown size" if size is None else f"of {size / 1e9:.1f} GB"
    ask = _ask.get()
    if ask is None or not ask(f"dataset {name} is a download {text}. Download it?"):
        raise DataError(
            f"dataset {name} is a download {text}: --yes (in Python download=True) downloads it, --limit 100 reads the "
            "first 100 clips only, and NAME=FOLDER takes a copy that you have"
        )
