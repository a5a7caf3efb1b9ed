"""The tensors of a checkpoint, wherever they lie; each is read when asked for."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastadasp.errors import ModelError

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
        self._mapped: dict[Path, dict[str, Tensor]] = {}

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU. Raises ModelError if its file cannot be read."""
        path = self.files[name]
        if path in self._mapped:
            return self._mapped[path][name]
        try:
            with safe_open(path, "pt") as file:
                tensor: Tensor = file.get_tensor(name)
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

    def add(self, path: Path) -> Source:
        """Adds the tensors of a .safetensors or .bin file. Raises ModelError."""
        if path.suffix == ".safetensors":
            self._add_header(path)
        else:
            self.add_tensors(path, load_pickled(path))
        return self

    def add_tensors(self, path: Path, tensors: dict[str, Any], prefix: str = "") -> Source:
        """Adds tensors that are mapped into memory already; `prefix` goes before each name."""
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise ModelError(f"{path}: {name} is a {type(tensor).__name__}; a checkpoint holds tensors by name")
            self._note(prefix + name, path, tuple(tensor.shape), tensor.dtype)
        self._mapped.setdefault(path, {}).update({prefix + name: tensor for name, tensor in tensors.items()})
        return self

    def _add_header(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    part = file.get_slice(name)
                    dtype = file.get_tensor(name).dtype if not part.get_shape() else part[:0].dtype
                    self._note(name, path, tuple(part.get_shape()), dtype)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read as safetensors: {error}") from None

    def _note(self, name: str, path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        if name in self.files:
            raise ModelError(f"{name} stands twice: in {self.files[name].name} and in {path.name}")
        self.files[name], self.shapes[name], self.dtypes[name] = path, shape, dtype


def load_pickled(path: Path) -> dict[str, Any]:
    """What ``torch.save`` wrote, tensors mapped from the file; only tensors and plain values are unpickled.

    ``argparse.Namespace``, in which older trainers keep their arguments, counts as a plain value.

    Raises:
        ModelError: the file cannot be read, or holds objects that would run code.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for damaged files
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "weights_only" in str(error) or "Weights only" in str(error):
            first = "it holds objects other than tensors and plain values, which are not unpickled"
        elif "mmap can only be used" in str(error):
            first = "it is in the format of torch before 1.6; load it with torch.load and save it again"
        raise ModelError(f"{path} cannot be read as a checkpoint: {first}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}; expected tensors by name")
    return content


def open_folder(folder: Path) -> Source:
    """The checkpoint in a folder of transformers' form: an index and its shards, or one file.

    Raises:
        ModelError: there is none, a shard is missing, or a tensor is not where the index says.
    """
    for name in INDEXES:
        if (folder / name).is_file():
            return _open_indexed(folder, folder / name)
    for name in SINGLES:
        if (folder / name).is_file():
            return Source(folder).add(folder / name)
    raise ModelError(f"{folder} holds no weights; expected {_either((*INDEXES, *SINGLES))}")


def _open_indexed(folder: Path, index: Path) -> Source:
    weights = read_json(index).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise ModelError(f"{index} has no weight_map of tensors and files")
    source = Source(folder)
    for name in dict.fromkeys(map(str, weights.values())):
        if Path(name).name != name:
            raise ModelError(f"{index} names the file {name!r}, which is not in the folder")
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks the shard {name} that {index.name} names")
        source.add(folder / name)
    for name, file in weights.items():
        if name not in source.files or source.files[name].name != file:
            raise ModelError(f"{index.name} says that {file} holds {name}, but it does not")
    return source


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object")
    return content


def _either(names: Iterable[str]) -> str:
    *some, last = names
    return f"{', '.join(some)} or {last}"
