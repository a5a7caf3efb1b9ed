"""JSONL manifests as NeMo writes them: one JSON object a line; or one array of objects, also inside an object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastadasp import files
from fastadasp.errors import DataError
from fastadasp.files import parse_json
from fastadasp.tasks.sources.row import Row

SUFFIXES = (".jsonl", ".json", ".ndjson")


def rows(path: Path) -> Iterator[Row | DataError]:
    """The rows of a manifest; recordings are relative to it. Raises DataError."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        yield from _array(path, text)
        return
    if path.suffix.lower() == ".json" and (inside := _only_list(text)) is not None:
        for number, values in enumerate(inside, 1):
            yield _row(values, path, number, f"{path}, entry {number}")
        return
    for number, line in enumerate(text.split("\n"), 1):  # other line separators of Unicode may stand inside texts
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = parse_json(line)
        except ValueError as error:
            yield DataError(f"{where}: {error}; a manifest has one object a line, or is one array of objects")
            continue
        yield _row(values, path, number, where)


def _array(path: Path, text: str) -> Iterator[Row | DataError]:
    """The rows of a file that is one JSON array. Raises DataError."""
    try:
        found = parse_json(text)
    except ValueError as error:
        raise DataError(f"{path}: {error}; a manifest has one object a line, or is one array of objects") from None
    for number, values in enumerate(found, 1):
        yield _row(values, path, number, f"{path}, entry {number}")


def _only_list(text: str) -> list[Any] | None:
    """The one list of objects inside a file that is a single JSON object; None for other files."""
    try:
        found = parse_json(text)
    except ValueError:
        return None
    lists = [v for v in found.values() if isinstance(v, list) and v and all(isinstance(one, dict) for one in v)]
    return lists[0] if len(lists) == 1 else None


def _row(values: Any, path: Path, number: int, where: str) -> Row | DataError:
    if not isinstance(values, dict):
        return DataError(f"{where}: expected a JSON object")
    return Row(values, path.parent, number, where)


def read_text(path: Path) -> str:
    """The content of a text file, with or without a byte order mark. Raises DataError."""
    try:
        return files.read_text(path, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
