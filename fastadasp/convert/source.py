"""The tensors of a checkpoint, wherever they lie; each is read when asked for."""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastadasp.errors import ModelError
from fastadasp.files import parse_json, read_text

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")


class Source:
    """Tensors by name over one or several files. Opening reads headers alone; `read` maps one tensor's bytes.

    Attributes:
        origin: the folder or file, for messages.
        shapes, dtypes, files: of every tensor, by name, in the files' order.
    """

    def __init__(self, origin: Path) -> None:
        self.origin = origin
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.files: dict[str, Path] = {}
        self._mapped: dict[str, Tensor] = {}
        self._stored: dict[str, str] = {}

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU. Raises ModelError if its file cannot be read."""
        if name in self._mapped:
            return self._mapped[name]
        path = self.files[name]
        try:
            with safe_open(path, "pt") as file:
                tensor: Tensor = file.get_tensor(self._stored[name])
                return tensor
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from None

    def fingerprint(self) -> str:
        """Changes with the tensors' names, shapes and types, and with size and time of their files."""
        digest = hashlib.sha256()
        for name, shape in self.shapes.items():
            digest.update(f"{name} {shape} {self.dtypes[name]}\n".encode())
        for path in dict.fromkeys(self.files.values()):
            stat = path.stat()
            digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def add(self, path: Path, prefix: str = "") -> Source:
        """Adds the tensors of a .safetensors or .bin file, with `prefix` before their names. Raises ModelError."""
        if path.suffix != ".safetensors":
            return self.add_tensors(path, load_pickled(path), prefix)
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    part = file.get_slice(name)
                    dtype = file.get_tensor(name).dtype if not part.get_shape() else part[:0].dtype
                    self._note(prefix + name, path, tuple(part.get_shape()), dtype)
                    self._stored[prefix + name] = name
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read as safetensors: {error}") from None
        return self

    def add_tensors(self, path: Path, tensors: dict[str, Any], prefix: str = "") -> Source:
        """Adds tensors that are mapped into memory already. Raises ModelError."""
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise ModelError(f"{path}: {name} is a {type(tensor).__name__}; a checkpoint holds tensors by name")
            self._note(prefix + name, path, tuple(tensor.shape), tensor.dtype)
            self._mapped[prefix + name] = tensor
        return self

    def _note(self, name: str, path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        if name in self.files:
            raise ModelError(f"{name} stands twice: in {self.files[name].name} and in {path.name}")
        self.files[name], self.shapes[name], self.dtypes[name] = path, shape, dtype


PLAIN: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *map(type, map(np.dtype, ("float32", "float64", "int64"))),
]
"""Classes of plain values beside tensors and Python's own: trainers keep arguments and losses in them."""


def load_pickled(path: Path) -> dict[str, Any]:
    """What ``torch.save`` wrote, tensors mapped from the file; only tensors and plain values are unpickled.

    Raises:
        ModelError: the file cannot be read, or holds objects that would run code.
    """
    if not path.is_file():
        raise ModelError(f"{path} is no ordinary file; expected a checkpoint")
    try:
        with torch.serialization.safe_globals(PLAIN):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for damaged files
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "weights_only" in str(error) or "Weights only" in str(error):
            found = re.search(r"GLOBAL (\S+)", str(error))
            name = f" ({found[1]})" if found else ""
            first = f"it holds objects other than tensors and plain values{name}, which are not unpickled"
        elif "mmap can only be used" in str(error):
            first = "it is no checkpoint as torch.save writes them since torch 1.6 (a zip file)"
        raise ModelError(f"{path} cannot be read as a checkpoint: {first}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}; expected tensors by name")
    return content


def open_folder(folder: Path, into: Source | None = None, prefix: str = "") -> Source:
    """The checkpoint in a folder of transformers' form: an index and its shards, or one file.

    Its tensors are added to `into`, if given, with `prefix` before their names.

    Raises:
        ModelError: there is none, a shard is missing, or a tensor is not where the index says.
    """
    source = into or Source(folder)
    for name in INDEXES:
        if (folder / name).is_file():
            return _open_indexed(folder, folder / name, source, prefix)
    for name in SINGLES:
        if (folder / name).is_file():
            return source.add(folder / name, prefix)
    raise ModelError(f"{folder} holds no weights; expected {_either((*INDEXES, *SINGLES))}")


def _open_indexed(folder: Path, index: Path, source: Source, prefix: str) -> Source:
    weights = read_json(index).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise ModelError(f"{index} has no weight_map of tensors and files")
    for name in dict.fromkeys(map(str, weights.values())):
        if Path(name).name != name:
            raise ModelError(f"{index} names the file {name!r}, which is not in the folder")
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks the shard {name} that {index.name} names")
        source.add(folder / name, prefix)
    for name, file in weights.items():
        held = source.files.get(prefix + name)
        if held is None or held.name != file:
            raise ModelError(f"{index.name} says that {file} holds {name}, but it does not")
    return source


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError that names the file."""
    try:
        content = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object")
    return content


def counted(names: Iterable[str], pattern: str) -> int:
    """How many different numbers the first group of `pattern` finds at the beginning of names."""
    return len({found[1] for name in names if (found := re.match(pattern, name))})


def _either(names: Iterable[str]) -> str:
    *some, last = names
    return f"{', '.join(some)} or {last}"
