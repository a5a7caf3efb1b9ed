"""Hugging Face datasets by id. Needs the package ``datasets``.

Only the files of the splits asked for are downloaded, into a cache of fastadasp's own; with a limit the first rows are
streamed instead. What the hub's local caches hold is used as it is, also offline.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastadasp.audio import kept
from fastadasp.errors import DataError, did_you_mean
from fastadasp.files import cache_folder
from fastadasp.tasks.sources.address import EXPORT, Address, is_commit, read_address
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
            found, revision = _load(address, split, text, limit, datasets)
        except DataError:
            raise
        except Exception as error:  # of the hub, of files, of the network: each with a class of its own
            raise DataError(f"dataset {text} cannot be had: {_reason(error, address)}") from None
        more = {"split": split} if len(address.splits) > 1 else {}
        yield from rows_of(found, text, datasets, more, revision)


def _reason(error: Exception, address: Address) -> str:
    """What went wrong; for a configuration that is not there also the one that was probably meant."""
    told = first_line(error)
    if address.configuration and "BuilderConfig" in told and "Available" in told:
        known = re.findall(r"'([^']+)'", told.split("Available", 1)[1])
        guess = did_you_mean(address.configuration, known)
        return f"it has no configuration {address.configuration!r}.{guess} It has: {', '.join(known)}"
    return told


def _load(address: Address, split: str, text: str, limit: int | None, datasets: Any) -> tuple[Any, str]:
    """One split: from a cache, streamed, or downloaded. And the commit that it is of, where there is one."""
    given = {"name": address.configuration, "revision": address.revision}
    if address.revision == EXPORT:  # its configurations are folders that no card lists
        given = {"data_dir": address.configuration, "revision": address.revision}
    own = str(cache_folder() / "datasets" / split)
    builder = _builder(datasets, address.name, [None, own], given)
    if Path(builder.cache_dir).exists():
        return builder.as_dataset(split=split), _commit(builder)
    builder = datasets.load_dataset_builder(address.name, cache_dir=own, **given)
    if Path(builder.cache_dir).exists():
        return builder.as_dataset(split=split), _commit(builder)
    files = builder.config.data_files
    if files and split not in files:
        guess = did_you_mean(split, files)
        raise DataError(f"dataset {text} has the splits {', '.join(files)}, not {split!r}.{guess}")
    if limit is not None:
        return builder.as_streaming_dataset(split=split), _commit(builder)
    check_download(text, _size(files[split]) if files else builder.info.download_size)
    if files:  # the other splits are often far larger
        builder.config.data_files = type(files)({split: files[split]})
    builder.download_and_prepare(verification_mode="no_checks")
    return builder.as_dataset(split=split), _commit(builder)


def _commit(builder: Any) -> str:
    """The commit of the hub that a builder reads; empty for a folder."""
    return next((str(part) for part in (builder.hash, Path(builder.cache_dir).name) if is_commit(part)), "")


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


def rows_of(dataset: Any, name: str, datasets: Any, more: dict[str, str], revision: str = "") -> Iterator[Row]:
    """Audio is not decoded here: its bytes go to a file, named after their content, where soundfile reads them."""
    labels = {}
    for column, kind in (dataset.features or {}).items():
        if isinstance(kind, datasets.Audio):
            dataset = dataset.cast_column(column, datasets.Audio(decode=False))
        elif isinstance(kind, datasets.ClassLabel):
            labels[column] = kind
    for number, values in _numbered(dataset, name):
        try:
            row = {key: _plain(value, labels.get(key)) for key, value in values.items()}
        except UnicodeDecodeError:
            raise DataError(f"{name}, row {number}: it holds bytes that are neither sound nor UTF-8 text") from None
        place = "".join(f" {split}," for split in more.values())
        yield Row(
            row | more,
            Path(),
            f"{'-'.join(more.values())}{'-' if more else ''}{number}",
            f"{name},{place} row {number}",
            revision,
        )


def _numbered(dataset: Any, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with their numbers, from 1 on. Raises DataError, with the row, for what its files do not hold."""
    rows, number = iter(dataset), 0
    while True:
        number += 1
        try:
            values = next(rows)
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            bad = error.object[error.start : error.start + 1].hex()
            raise DataError(f"{name}, row {number}: a text is not UTF-8 (it has the byte 0x{bad})") from None
        except Exception as error:  # of Arrow, of files, of the network
            raise DataError(f"{name}, row {number} cannot be read: {first_line(error)}") from None
        yield number, values


def _plain(value: Any, label: Any) -> Any:
    if label is not None and value is not None:
        return label.int2str(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict) and "bytes" in value and "path" in value:
        return value["path"] if value["bytes"] is None else str(_kept(value["bytes"], value["path"]))
    return value


def _kept(content: bytes, path: str | None) -> Path:
    """A file with the content of a recording, in the cache."""
    file = cache_folder() / "recordings" / (hashlib.sha256(content).hexdigest()[:32] + Path(path or "").suffix)
    if not file.exists():
        with kept(file) as part:
            part.write_bytes(content)
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
    """The first line of an error's text that says anything; of what caused it, where the package only says so."""
    if type(error).__name__ == "DatasetGenerationError" and isinstance(error.__cause__, Exception):
        return first_line(error.__cause__)
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
