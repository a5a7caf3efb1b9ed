"""Folders with Hugging Face datasets: of ``save_to_disk``, of Parquet files, or a copy of a repository of the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastadasp.errors import DataError, did_you_mean
from fastadasp.tasks.sources.address import USUAL_SPLIT, Address
from fastadasp.tasks.sources.hub import first_line, package, rows_of
from fastadasp.tasks.sources.row import Row

_PART = re.compile(r"^(.+?)-\d{5}-of-\d{5}$")
"""How the hub names the files of a split."""
SUFFIX = ".parquet"
_SPLITS = ("train", "test", "validation", "valid", "dev")


def is_saved(path: Path) -> bool:
    """Whether a folder holds a dataset: of ``save_to_disk``, or Parquet files in it or in folders inside it."""
    if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        return True
    return next(path.rglob("*.parquet"), None) is not None


def rows(path: Path, wanted: Address | None = None) -> Iterator[Row]:
    """The rows of a saved dataset.

    Args:
        wanted: the dataset of the hub that this is a copy of: its configuration and splits are taken. Without, the
            split ``test`` of several.

    Raises:
        DataError: it cannot be read, or does not say which rows are meant.
    """
    datasets = package(str(path))
    splits = (USUAL_SPLIT,) if wanted is None else wanted.splits
    for split in splits:
        try:
            found = _load(path, split, None if wanted is None else wanted.configuration, datasets, wanted is not None)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"dataset {path} cannot be read: {first_line(error)}") from None
        yield from rows_of(found, str(path), datasets, {"split": split} if len(splits) > 1 else {})


def _load(path: Path, split: str, configuration: str | None, datasets: Any, exact: bool) -> Any:
    if path.is_file():
        return datasets.load_dataset("parquet", data_files=[str(path)], split="train")
    if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        found = datasets.load_from_disk(str(path))
        if isinstance(found, dict):
            if split not in found:
                raise DataError(
                    f"dataset {path} has the splits {', '.join(found)}; name one: {path / next(iter(found))}"
                )
            return found[split]
        return found
    files = [str(file) for file in parquet_files(path, split, configuration, exact=exact)]
    return datasets.load_dataset("parquet", data_files=files, split="train")


def parquet_files(path: Path, split: str, configuration: str | None = None, exact: bool = False) -> list[Path]:
    """The Parquet files of a split.

    Files say their split by name (``test-00000-of-00001.parquet``, ``test.parquet``) or by folder; a configuration is a
    folder. Where nothing says so, all files count.

    Args:
        exact: whether files that say they are of another split are refused even if there is no other.

    Raises:
        DataError: they are of other splits, of several configurations, or of another one.
    """
    files = sorted(path.rglob("*.parquet"))
    if configuration is not None and path.name != configuration:
        files = _of_configuration(path, files, split, configuration)
    splits = {file: _split(file.relative_to(path), split) for file in files}
    names = sorted({name for name in splits.values() if name is not None})
    chosen = [file for file in files if splits[file] == split]
    if not chosen:
        if len(names) > 1 or (names and (exact or None in splits.values())):
            what = "splits" if len(names) > 1 else "split"
            guess = did_you_mean(split, names)
            raise DataError(
                f"dataset {path} has the {what} {', '.join(names)}, not {split!r}.{guess} Name the folder of one, or a "
                "Parquet file, to take it"
            )
        chosen = files
    places = sorted({str(file.parent.relative_to(path)) for file in chosen})
    if len(places) > 1:
        raise DataError(f"dataset {path} has rows of {split!r} in {', '.join(places)}; name one of these folders")
    return chosen


def _of_configuration(path: Path, files: list[Path], split: str, configuration: str) -> list[Path]:
    """The files in folders of this name, else those that are in no configuration's folder. Raises DataError."""
    folders = {file: file.relative_to(path).parts[:-1] for file in files}
    if found := [file for file in files if configuration in folders[file]]:
        return found
    neutral = {"data", split, *_SPLITS}
    if found := [file for file in files if neutral.issuperset(folders[file])]:
        return found
    names = sorted({name for parts in folders.values() for name in parts} - neutral)
    raise DataError(
        f"dataset {path} has no folder called {configuration!r}.{did_you_mean(configuration, names)} It has: "
        f"{', '.join(names)}. Name the folder of one, or a Parquet file, to take it"
    )


def _split(file: Path, wanted: str) -> str | None:
    """The split of a Parquet file, as its name or its folder says; None if neither does."""
    part = _PART.match(file.stem)
    if part is not None:
        return part[1]
    return next((name for name in (file.stem, file.parent.name) if name in (*_SPLITS, wanted)), None)
