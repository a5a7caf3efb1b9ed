"""JSONL manifests as NeMo writes them: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from fastadasp.errors import DataError
from fastadasp.tasks.sources.row import Row

SUFFIXES = (".jsonl", ".json", ".ndjson")


def rows(path: Path) -> Iterator[Row | DataError]:
    """The rows of a manifest; recordings are relative to it. Raises DataError."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            yield DataError(f"{where}: not valid JSON ({error.msg}); a manifest has one object a line")
            continue
        if not isinstance(values, dict):
            yield DataError(f"{where}: expected a JSON object")
            continue
        yield Row(values, path.parent, number, where)


def read_text(path: Path) -> str:
    """The content of a text file, with or without a byte order mark. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
