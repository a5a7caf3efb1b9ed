"""Writes a conversion's files one after the other, so that memory holds one; what is finished survives a crash."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from fastadasp.convert.plan import SHARD_BYTES, Conversion, Target
from fastadasp.convert.source import read_json
from fastadasp.errors import FastAdaSPError, ModelError, RunError
from fastadasp.files import UNFINISHED, is_disk_trouble, whole, write_whole

STATE = UNFINISHED
"""Stands in the folder until all of it is written; says which files are."""


@dataclass
class _State:
    """What an unfinished folder holds: the checkpoint it comes from, and size and SHA-256 of each finished file."""

    path: Path
    conversion: dict[str, Any]
    done: dict[str, dict[str, Any]]

    def has(self, name: str) -> bool:
        """Whether a file is finished and still as it was written."""
        path = self.path.parent / name
        known = self.done.get(name)
        if not isinstance(known, dict) or not path.is_file():
            return False
        return path.stat().st_size == known.get("size") and _hash(path) == known.get("sha256")

    def add(self, name: str) -> None:
        path = self.path.parent / name
        self.done[name] = {"size": path.stat().st_size, "sha256": _hash(path)}
        self.save()

    def save(self) -> None:
        write_whole(self.path, json.dumps({"conversion": self.conversion, "done": self.done}, indent=2))


def write(
    conversion: Conversion,
    folder: Path,
    *,
    limit: int = SHARD_BYTES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Checks a conversion and writes it into `folder`; goes on where an earlier call was cut off.

    Args:
        limit: bytes of tensors in one file; about what memory has to hold.
        progress: called with the bytes written, and the bytes in all, after each file.

    Raises:
        ModelError: the checkpoint is not what its kind says.
        RunError: the folder is not empty, or cannot be written.
    """
    conversion.check()
    shards = conversion.shards(limit)
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    sizes = [sum(map(conversion.bytes_of, shard)) for shard in shards]
    identity = {"kind": conversion.kind, "source": conversion.source.fingerprint(), "files": names, "bytes": sizes}
    try:
        state = _open(folder, identity)
        left = [i for i, name in enumerate(names) if not state.has(name)]
        _check_space(folder, sum(sizes[i] for i in left))
        done = sum(sizes) - sum(sizes[i] for i in left)
        progress(done, sum(sizes))
        for i in left:
            _write_shard(conversion, shards[i], folder / names[i])
            state.add(names[i])
            done += sizes[i]
            progress(done, sum(sizes))
        for name, shard in zip(names, shards, strict=True):
            _verify(conversion, shard, folder / name)
        weights = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weights}
        write_whole(folder / "model.safetensors.index.json", json.dumps(index, indent=2, sort_keys=True) + "\n")
        conversion.finish(folder)
        state.path.unlink()
    except FastAdaSPError:
        raise
    except Exception as error:
        if not is_disk_trouble(error):
            raise
        raise _refusal(folder, error) from None


def _open(folder: Path, identity: dict[str, Any]) -> _State:
    """The state of an empty or unfinished folder."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; give a folder that is empty or does not exist yet")
    path = folder / STATE
    if path.is_file():
        known = read_json(path)
        if known.get("conversion") != identity:
            raise RunError(
                f"{folder} holds an unfinished conversion of another checkpoint, or of this one before it changed; "
                "remove it or give another folder"
            )
        for scrap in folder.glob("*.part"):
            scrap.unlink()
        done = known.get("done")
        return _State(path, identity, done if isinstance(done, dict) else {})
    if folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty; give a folder that is empty or does not exist yet")
    folder.mkdir(parents=True, exist_ok=True)
    state = _State(path, identity, {})
    state.save()
    return state


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunError(f"{folder} needs {needed / 1e9:.1f} GB more, but its disk has {free / 1e9:.1f} GB free")


def _write_shard(conversion: Conversion, shard: list[Target], path: Path) -> None:
    tensors = {}
    for target in shard:
        parts = [conversion.source.read(name) for name in target.parts]
        tensors[target.name] = target.build(parts).contiguous().clone()  # views of one tensor would share storage
    with whole(path) as part:
        save_file(tensors, part, metadata={"format": "pt"})


def _verify(conversion: Conversion, shard: list[Target], path: Path) -> None:
    """Holds a written file's header against what was to be written."""
    with safe_open(path, "pt") as file:
        held = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    wanted = {target.name: conversion.size(target)[0] for target in shard}
    if held != wanted:
        raise ModelError(f"{path} does not hold what was written to it; remove it and run the same command again")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refusal(folder: Path, error: Exception) -> RunError:
    """The message for a folder that could not be written."""
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    hint = "; free some space and run the same command again: what is finished is kept" if full else ""
    return RunError(f"{folder} cannot be written: {getattr(error, 'strerror', None) or error}{hint}")
