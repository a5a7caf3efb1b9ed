"""Where a dataset of the hub lies: ``hf:ID[@REVISION][:CONFIGURATION][:SPLIT]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastadasp.errors import DataError

PREFIX = "hf:"
USUAL_SPLIT = "test"
EXPORT = "refs/convert/parquet"
"""The branch in which the hub keeps a Parquet copy of a dataset that comes as a script."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
FORM = "hf:ID, hf:ID:SPLIT or hf:ID:CONFIGURATION:SPLIT, with ID@REVISION for a revision"


@dataclass(frozen=True)
class Address:
    """A dataset of the hub.

    Attributes:
        splits: several were joined by ``+``.
        revision: a commit, tag or branch; None for the newest.
    """

    name: str
    configuration: str | None = None
    splits: tuple[str, ...] = (USUAL_SPLIT,)
    revision: str | None = None

    def at(self, revision: str) -> str:
        """The text of the same address at another revision."""
        parts = [f"{PREFIX}{self.name}@{revision}", self.configuration, "+".join(self.splits)]
        return ":".join(part for part in parts if part)


def is_address(source: object) -> bool:
    """Whether a source is of the hub."""
    return str(source).startswith(PREFIX)


def split_task(text: str) -> tuple[str, str, str]:
    """Name (or task file), revision and source of ``NAME[@REVISION][=SOURCE]``; empty where there is none."""
    name, _, source = text.partition("=")
    name, _, revision = name.rpartition("@") if "@" in name and "/" not in name.rpartition("@")[2] else (name, "", "")
    return name, revision, source


def is_commit(text: object) -> bool:
    """Whether this is the whole hash of a commit."""
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


def read_address(text: str) -> Address:
    """The parts of ``hf:...``; without a split it is ``test``. Raises DataError."""
    name, *rest = text.removeprefix(PREFIX).split(":")
    name, _, revision = name.partition("@")
    if not name or len(rest) > 2 or not all(rest) or text.count("@") > 1 or text.split(":")[1].endswith("@"):
        raise DataError(f"{text!r}: write {FORM}")
    splits = tuple(rest[-1].split("+")) if rest else (USUAL_SPLIT,)
    if not all(splits):
        raise DataError(f"{text!r}: several splits are joined by +, e.g. dev+test")
    return Address(name, rest[0] if len(rest) == 2 else None, splits, revision or None)
