"""Hugging Face datasets: by id, or saved in a folder. Needs the package ``datasets``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastadasp.errors import DataError
from fastadasp.files import cache_folder
from fastadasp.tasks.sources.row import Row

PREFIX = "hf:"
USUAL_SPLIT = "test"


def is_saved(path: Path) -> bool:
    """Whether a folder holds a dataset: of ``save_to_disk``, or Parquet files."""
    return any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")) or any(
        path.glob("*.parquet")
    )


def rows(text: str) -> Iterator[Row]:
    """The rows of ``hf:ID``, ``hf:ID:SPLIT`` or ``hf:ID:CONFIGURATION:SPLIT``; without a split, ``test``.

    Raises:
        DataError: the package is missing, or there is no such dataset.
    """
    parts = text.removeprefix(PREFIX).split(":")
    if not parts[0] or len(parts) > 3 or not all(parts):
        raise DataError(f"{text!r}: write hf:ID, hf:ID:SPLIT or hf:ID:CONFIGURATION:SPLIT")
    name, split = parts[0], parts[-1] if len(parts) > 1 else USUAL_SPLIT
    datasets = _package(text)
    try:
        found = datasets.load_dataset(name, parts[1] if len(parts) == 3 else None, split=split)
    except Exception as error:  # of the hub, of files, of the network: each with a class of its own
        raise DataError(f"dataset {text} cannot be had: {_first_line(error)}") from None
    return _rows(found, text, datasets)


def saved_rows(path: Path) -> Iterator[Row]:
    """The rows of a saved dataset; of several splits, those of ``test``. Raises DataError."""
    datasets = _package(str(path))
    try:
        if any(path.glob("*.parquet")):
            files = sorted(str(file) for file in path.glob("*.parquet"))
            found = datasets.load_dataset("parquet", data_files=files, split="train")
        else:
            found = datasets.load_from_disk(str(path))
    except Exception as error:
        raise DataError(f"dataset {path} cannot be read: {_first_line(error)}") from None
    if isinstance(found, dict):
        if USUAL_SPLIT not in found:
            raise DataError(f"dataset {path} has the splits {', '.join(found)}; name one: {path / next(iter(found))}")
        found = found[USUAL_SPLIT]
    return _rows(found, str(path), datasets)


def _rows(dataset: Any, name: str, datasets: Any) -> Iterator[Row]:
    """Audio is not decoded here: its bytes go to a file, named after their content, where soundfile reads them."""
    labels = {}
    for column, kind in dataset.features.items():
        if isinstance(kind, datasets.Audio):
            dataset = dataset.cast_column(column, datasets.Audio(decode=False))
        elif isinstance(kind, datasets.ClassLabel):
            labels[column] = kind
    for number, values in enumerate(dataset, 1):
        row = {key: _plain(value, labels.get(key)) for key, value in values.items()}
        yield Row(row, Path(), number, f"{name}, row {number}")


def _plain(value: Any, label: Any) -> Any:
    if label is not None and value is not None:
        return label.int2str(value)
    if isinstance(value, dict) and "bytes" in value and "path" in value:
        return value["path"] if value["bytes"] is None else str(_kept(value["bytes"], value["path"]))
    return value


def _kept(content: bytes, path: str | None) -> Path:
    """A file with the content of a recording, in the cache."""
    folder = cache_folder() / "recordings"
    file = folder / (hashlib.sha256(content).hexdigest()[:32] + Path(path or "").suffix)
    if not file.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part = file.with_name(f"{file.name}.part")
            part.write_bytes(content)
            part.replace(file)
        except OSError as error:
            raise DataError(f"recordings cannot be kept in {folder}: {error.strerror}; set FASTADASP_CACHE") from None
    return file


def _package(what: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(f"{what} needs the package datasets: pip install 'fastadasp[datasets]'") from None
    datasets.disable_progress_bars()
    return datasets


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
