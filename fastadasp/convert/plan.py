"""What is to be written, from what: checked as a whole before the first byte is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from fastadasp.convert.source import Source
from fastadasp.errors import ModelError

SHARD_BYTES = 2 * 1024**3
"""Bytes of tensors in one file of the result, unless one tensor alone is larger."""


@dataclass(frozen=True)
class Target:
    """One tensor of the result: `make` gives it from the source's tensors `parts` (as they are, if None)."""

    name: str
    parts: tuple[str, ...]
    make: Callable[..., Tensor] | None = None

    def build(self, parts: Sequence[Tensor]) -> Tensor:
        """The tensor, from its parts, in their order."""
        return parts[0] if self.make is None else self.make(*parts)


@dataclass
class Conversion:
    """A checkpoint, and the folder it is to become.

    Attributes:
        kind: the name of the layout it comes in.
        source: its tensors.
        expected: the shape of every tensor that the source has to hold.
        targets: the tensors of the result; each source tensor takes part in one of them at least.
        shapes: the shape of every tensor that the model's class expects.
        finish: writes everything but the weights into the folder.
        ignored: patterns (whole names) of source tensors that carry no weight of the model.
    """

    kind: str
    source: Source
    expected: dict[str, tuple[int, ...]]
    targets: list[Target]
    shapes: dict[str, tuple[int, ...]]
    finish: Callable[[Path], None]
    ignored: tuple[str, ...] = ()
    _sizes: dict[str, tuple[tuple[int, ...], torch.dtype]] = field(default_factory=dict, init=False)

    def check(self) -> None:
        """Holds the source against `expected` and the targets against `shapes`. Raises ModelError; reads no weights."""
        source, origin = self.source, self.source.origin
        missing = [name for name in self.expected if name not in source.shapes]
        if missing:
            raise ModelError(f"{origin} is not a complete {self.kind} checkpoint: it lacks {_some(missing)}")
        used = {part for target in self.targets for part in target.parts}
        ignored = re.compile("|".join(self.ignored) or r"(?!)")
        unused = [name for name in source.shapes if name not in used and not ignored.fullmatch(name)]
        if unused:
            raise ModelError(
                f"{origin} holds tensors that a {self.kind} checkpoint of these sizes has no place for: {_some(unused)}"
            )
        for name, shape in self.expected.items():
            if source.shapes[name] != shape:
                raise ModelError(
                    f"{source.files[name]}: {name} has shape {list(source.shapes[name])}, "
                    f"but the configuration makes it {list(shape)}"
                )
        for target in self.targets:
            shape, _ = self.size(target)
            if shape != self.shapes.get(target.name):
                raise ModelError(
                    f"{target.name} would have shape {list(shape)}, but the model has {self.shapes.get(target.name)}"
                )
        lacking = set(self.shapes) - {target.name for target in self.targets}
        if lacking:
            raise ModelError(f"nothing in {origin} gives {_some(sorted(lacking))}")

    def size(self, target: Target) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and type of a target, found without its data."""
        if target.name not in self._sizes:
            source = self.source
            empty = [torch.empty(source.shapes[p], dtype=source.dtypes[p], device="meta") for p in target.parts]
            made = target.build(empty)
            self._sizes[target.name] = tuple(made.shape), made.dtype
        return self._sizes[target.name]

    def bytes_of(self, target: Target) -> int:
        """Bytes of a target's values."""
        shape, dtype = self.size(target)
        return prod(shape) * dtype.itemsize

    def shards(self, limit: int = SHARD_BYTES) -> list[list[Target]]:
        """The targets in files of at most `limit` bytes, in the source's order, so that it is read once through."""
        place = {name: i for i, name in enumerate(self.source.shapes)}
        shards: list[list[Target]] = [[]]
        filled = 0
        for target in sorted(self.targets, key=lambda target: place[target.parts[0]]):
            size = self.bytes_of(target)
            if shards[-1] and filled + size > limit:
                shards.append([])
                filled = 0
            shards[-1].append(target)
            filled += size
        return shards


def _some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
