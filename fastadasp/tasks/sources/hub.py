"""Hugging Face datasets by id. Needs the package ``datasets``.

Only the files of the splits asked for are downloaded, into a cache of fastadasp's own; with a limit the first rows are
streamed instead. What the hub's local caches hold is used as it is, also offline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastadasp.errors import DataError
from fastadasp.files import cache_folder
from fastadasp.tasks.sources.address import Address, read_address
from fastadasp.tasks.sources.downloads import check_download
from fastadasp.tasks.sources.row import Row


def rows(text: str, limit: int | None = None) -> Iterator[Row]:
    """The rows of ``hf:...`` (`fastadasp.tasks.sources.address`).

    Args:
        limit: how many rows are likely to be read; these are streamed where the dataset is not at hand.

    Raises:
        DataError: the package is missing, there is no such dataset, or it is large and nobody said to download it.
    """
    address = read_address(text)
    datasets = package(text)
    for split in address.splits:
        try:
            found = _load(address, split, text, limit, datasets)
        except DataError:
            raise
        except Exception as error:  # of the hub, of files, of the network: each with a class of its own
            raise DataError(f"dataset {text} cannot be had: {first_line(error)}") from None
        more = {"split": split} if len(address.splits) > 1 else {}
        yield from rows_of(found, text, datasets, more)


def _load(address: Address, split: str, text: str, limit: int | None, datasets: Any) -> Any:
    """One split: from a cache, streamed, or downloaded."""
    given = {"name": address.configuration, "revision": address.revision}
    own = str(cache_folder() / "datasets" / split)
    builder = _builder(datasets, address.name, [None, own], given)
    if Path(builder.cache_dir).exists():
        return builder.as_dataset(split=split)
    builder = datasets.load_dataset_builder(address.name, cache_dir=own, **given)
    if Path(builder.cache_dir).exists():
        return builder.as_dataset(split=split)
    files = builder.config.data_files
    if files and split not in files:
        raise DataError(f"dataset {text} has the splits {', '.join(files)}, not {split!r}")
    if limit is not None:
        return builder.as_streaming_dataset(split=split)
    check_download(text, _size(files[split]) if files else builder.info.download_size)
    if files:  # the other splits are often far larger
        builder.config.data_files = type(files)({split: files[split]})
    builder.download_and_prepare(verification_mode="no_checks")
    return builder.as_dataset(split=split)


def _builder(datasets: Any, name: str, folders: list[str | None], given: dict[str, Any]) -> Any:
    """What loads a dataset, with the first cache folder that it works with: offline only a cache knows it."""
    for folder in folders[:-1]:
        try:
            return datasets.load_dataset_builder(name, cache_dir=folder, **given)
        except Exception:  # the last one's error is told
            continue
    return datasets.load_dataset_builder(name, cache_dir=folders[-1], **given)


def _size(files: list[str]) -> int | None:
    """Bytes of files, here or on the hub; None if they cannot be told."""
    from fsspec.core import url_to_fs

    try:
        return sum(int(fs.size(path)) for fs, path in (url_to_fs(str(file)) for file in files))
    except Exception:  # whatever a file system raises: then the size is not known
        return None


def rows_of(dataset: Any, name: str, datasets: Any, more: dict[str, str]) -> Iterator[Row]:
    """Audio is not decoded here: its bytes go to a file, named after their content, where soundfile reads them."""
    labels = {}
    for column, kind in (dataset.features or {}).items():
        if isinstance(kind, datasets.Audio):
            dataset = dataset.cast_column(column, datasets.Audio(decode=False))
        elif isinstance(kind, datasets.ClassLabel):
            labels[column] = kind
    for number, values in enumerate(dataset, 1):
        row = {key: _plain(value, labels.get(key)) for key, value in values.items()}
        place = "".join(f" {split}," for split in more.values())
        yield Row(
            row | more,
            Path(),
            f"{'-'.join(more.values())}{'-' if more else ''}{number}",
            f"{name},{place} row {number}",
        )


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


def package(what: str) -> Any:
    """The package ``datasets``. Raises DataError where it is missing."""
    try:
        import datasets
    except ImportError:
        raise DataError(f"{what} needs the package datasets: pip install 'fastadasp[datasets]'") from None
    datasets.disable_progress_bars()
    return datasets


def first_line(error: Exception) -> str:
    """The first line of an error's text that says anything."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
