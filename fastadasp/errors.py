"""Errors that a person can act on.

Every message says what was wrong, with which value, and what is allowed. The command line prints them without a
traceback and exits with code 2; in Python they are ordinary exceptions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 200
"""Letters of a name that a message repeats."""


class FastAdaSPError(Exception):
    """Base of every error that fastadasp raises on purpose."""


class UnknownNameError(FastAdaSPError):
    """A name that nothing installed answers to."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        long = len(name) > LONGEST
        close = [] if long else difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        shown = f"{name[:LONGEST]}..." if long else name
        guess = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
        listing = ", ".join(known) if known else "none"
        super().__init__(f"unknown {kind} {shown!r}.{guess} Installed: {listing}.{' ' + hint if hint else ''}")
        self.kind, self.name, self.close = kind, name, close
        self._given = (kind, name, tuple(known), hint)

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, tuple[str, ...], str]]:
        """Made again from what it was made of: an exception is else made again from its message alone."""
        return type(self), self._given


class StrategyError(FastAdaSPError):
    """A recipe that cannot be read, does not validate, or whose parts do not fit together."""


class PluginError(FastAdaSPError):
    """A plugin that failed to load, or whose component is needed but broken."""


class ModelError(FastAdaSPError):
    """A model that cannot be loaded or whose audio tokens cannot be found."""


class DataError(FastAdaSPError):
    """Audio or a data set that cannot be used."""


class EstimateError(FastAdaSPError):
    """Points or arguments that an estimator of entropy or information cannot use."""


class RunError(FastAdaSPError):
    """A run that cannot start: bad arguments, or an output folder that must not be touched."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question with the name that comes closest, with a space before it, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
