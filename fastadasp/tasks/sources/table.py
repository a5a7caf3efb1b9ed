"""CSV and TSV with a header line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from fastadasp.errors import DataError
from fastadasp.tasks.sources.manifest import read_text
from fastadasp.tasks.sources.row import Row

SUFFIXES = {".csv": ",", ".tsv": "\t"}
"""Endings, with what divides the columns."""


def rows(path: Path) -> Iterator[Row | DataError]:
    """The rows of a table; recordings are relative to it. Raises DataError."""
    reader = csv.reader(StringIO(read_text(path), newline=""), delimiter=SUFFIXES[path.suffix], strict=True)
    try:
        head = [name.strip() for name in next(reader, [])]
        if not any(head):
            raise DataError(f"{path} is empty: its first line names the columns")
        twice = sorted({name for name in head if name and head.count(name) > 1})
        if twice:
            raise DataError(f"{path} has more than one column {twice[0]!r}")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path}, line {reader.line_num}"
            if len(cells) != len(head):
                yield DataError(f"{where}: {len(cells)} fields under {len(head)} columns; quote fields with a comma")
                continue
            yield Row(dict(zip(head, cells, strict=True)), path.parent, reader.line_num, where)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None
