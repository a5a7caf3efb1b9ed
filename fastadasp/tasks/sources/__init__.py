"""Where clips come from: manifests, tables, folders, Hugging Face datasets. Every source gives rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastadasp.errors import DataError
from fastadasp.tasks.sources import copies, folder, hub, manifest, table
from fastadasp.tasks.sources.address import Address, is_address
from fastadasp.tasks.sources.row import COLUMNS, REFERENCES, Names, Row

__all__ = ["COLUMNS", "REFERENCES", "Names", "Row", "read_rows"]

KINDS = (
    "a JSONL manifest (.jsonl, .json), a table (.csv, .tsv), a Parquet file, a folder of recordings, a saved Hugging "
    "Face dataset, or hf:ID[@REVISION][:CONFIGURATION][:SPLIT]"
)


def read_rows(
    source: str | Path, *, limit: int | None = None, wanted: Address | None = None
) -> Iterator[Row | DataError]:
    """The rows of a source, in its order; in the place of one that cannot be understood, what is wrong with it.

    Args:
        source: a path, or ``hf:`` and the name of a dataset.
        limit: how many rows are likely to be read; a hint.
        wanted: the dataset of the hub that a folder is a copy of.

    Raises:
        DataError: there is no such source, it is of no known kind, or it cannot be read as a whole.
    """
    for row in _rows(source, limit, wanted):
        yield row if isinstance(row, DataError) else _fault(row) or row


def _fault(row: Row) -> DataError | None:
    """Text that is none: half a character of JSON's, or a recording's name that is not UTF-8."""
    for name, value in row.values.items():
        for text in (name, value):
            try:
                _ = isinstance(text, str) and text.encode()
            except UnicodeEncodeError:
                kind = "bytes that are not UTF-8, or half a character (a lone surrogate)"
                return DataError(f"{ascii(row.where)[1:-1]}: {name!a} holds {kind}, which is no text")
    return None


def _rows(source: str | Path, limit: int | None, wanted: Address | None) -> Iterator[Row | DataError]:
    """The rows, as their source has them. Raises DataError."""
    text = str(source)
    if is_address(text):
        return hub.rows(text, limit)
    path = Path(source)
    if path.is_dir():
        return copies.rows(path, wanted) if copies.is_saved(path) else folder.rows(path)
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is no ordinary file, but a pipe or a device; {KINDS}")
    if not path.is_file():
        raise DataError(f"there is no {'manifest' if path.suffix else 'file or folder'} {path}")
    if path.suffix.lower() == copies.SUFFIX:
        return copies.rows(path, wanted)
    if path.suffix.lower() in manifest.SUFFIXES:
        return manifest.rows(path)
    if path.suffix.lower() in table.SUFFIXES:
        return table.rows(path)
    raise DataError(f"{path}: clips come from {KINDS}")
