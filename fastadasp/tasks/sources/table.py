"""CSV and TSV with a header line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Literal

from fastadasp.errors import DataError
from fastadasp.tasks.sources.manifest import read_text
from fastadasp.tasks.sources.row import Row

SUFFIXES = {".csv": ",", ".tsv": "\t"}
"""Endings, with what divides the columns."""


def rows(path: Path) -> Iterator[Row | DataError]:
    """The rows of a table; recordings are relative to it. Raises DataError."""
    text = read_text(path)
    divider = _divider(text, SUFFIXES[path.suffix.lower()])
    quoting: Literal[0, 3] = csv.QUOTE_NONE if divider == "\t" and not _is_quoted(text) else csv.QUOTE_MINIMAL
    reader = csv.reader(StringIO(text, newline=""), delimiter=divider, quoting=quoting, strict=True)
    advice = (
        "quote fields with a comma" if quoting == csv.QUOTE_MINIMAL else "a tab divides columns, whatever is quoted"
    )
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
                yield DataError(f"{where}: {len(cells)} fields under {len(head)} columns; {advice}")
                continue
            yield Row(dict(zip(head, cells, strict=True)), path.parent, reader.line_num, where)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None


def _divider(text: str, usual: str) -> str:
    """What divides columns, by the first line: a spreadsheet in many countries writes CSV with semicolons."""
    head = text.split("\n", 1)[0]
    return next((sign for sign in (usual, ";", "\t") if sign in head), usual)


def _is_quoted(text: str) -> bool:
    """Whether quotation marks around fields of a TSV are its writer's, and no part of the texts.

    Corpora (Common Voice, CoVoST 2) write TSV without quoting: quotation marks are text. A writer that quotes doubles
    the marks inside; so all lines make sense with quoting, and at least one has a mark or a tab that needed it.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    columns, needed = lines[0].count("\t") + 1 if lines else 0, False
    for line in lines:
        if '"' not in line:
            continue
        try:
            cells = next(csv.reader([line.rstrip("\r")], delimiter="\t", strict=True))
        except csv.Error:
            return False
        plain = line.rstrip("\r").split("\t")
        if len(cells) != columns or any('"' in cell and not _enclosed(cell) for cell in plain if len(plain) == columns):
            return False
        needed = needed or any('"' in cell or "\t" in cell for cell in cells)
    return needed


def _enclosed(cell: str) -> bool:
    """Whether a field begins and ends with quotation marks."""
    return len(cell) > 1 and cell.startswith('"') and cell.endswith('"')
