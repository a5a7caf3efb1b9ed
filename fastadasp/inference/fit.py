"""How many clips fit into memory at a time: what the longest one takes, against what is free."""

from __future__ import annotations

import gc
import math
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastadasp.audio import file_seconds
from fastadasp.counts.shape import DecoderShape
from fastadasp.errors import RunError
from fastadasp.inference.clips import batches, encode, read_clip
from fastadasp.inference.runner import generate_few
from fastadasp.models.lookup import adapter_for

if TYPE_CHECKING:
    from fastadasp.contracts.task import Example, Task
    from fastadasp.inference.load import LoadedModel

MOST = 64
"""Most clips at a time: beyond it a batch gains little and holds more padding."""
SHARE = 0.5
"""Fraction of the free memory that clips may take. The rest is for a strategy's scores, the clips of other tasks, and
other programs of the machine."""
_MEMORY = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Fit:
    """A batch size, and what it was found from.

    Attributes:
        size: clips at a time, a power of two.
        clip: bytes that the longest clip takes.
        free: bytes that were free for this process.
    """

    size: int
    clip: int
    free: int

    def __str__(self) -> str:
        return (
            f"batch size {self.size}, found by memory: the longest clip takes {self.clip / 1e6:.0f} MB and "
            f"{self.free / 1e9:.1f} GB are free"
        )


def find(loaded: LoadedModel, tasks: dict[str, Task], examples: dict[str, list[Example]], sharers: int = 1) -> Fit:
    """The largest power of two of clips, at most `MOST`, whose batches should fit.

    The longest clip of all tasks is encoded and answered alone, which shows what it takes. `SHARE` of the free memory
    is divided by that. On a GPU the result is then tried with so many copies of the clip, and halved as long as memory
    runs out.

    Args:
        sharers: processes that share the memory.

    Raises:
        RunError: not even one clip fits.
    """
    name, longest = max(
        ((name, example) for name, found in examples.items() for example in found),
        key=lambda item: file_seconds(item[1].audio),
    )
    new = max(task.max_new_tokens for task in tasks.values())
    took: list[int] = []
    halved(1, lambda _: took.append(clip_bytes(loaded, longest, new)))
    clip, free = took[0], free_bytes(loaded.device) // max(sharers, 1)
    most = min(MOST, max(len(found) for found in examples.values()))
    size = power_below(min(most, max(1, int(SHARE * free) // max(clip, 1))))
    if loaded.device == "cuda":
        size = halved(size, lambda count: _try(loaded, longest, count))
    elif clip > free:
        raise RunError(
            f"the longest clip, {longest.id} of task {name!r}, takes {clip / 1e9:.1f} GB of memory, of which "
            f"{free / 1e9:.1f} GB are free; use a smaller model, --dtype bfloat16 or fewer --workers"
        )
    return Fit(size, clip, free)


def power_below(count: int) -> int:
    """The largest power of two that is not above `count`, which is at least 1."""
    return 1 << (count.bit_length() - 1)


def halved(size: int, attempt: Callable[[int], None]) -> int:
    """The first of `size`, `size` / 2, ... 1 for which `attempt` does not run out of memory. Raises RunError."""
    while True:
        try:
            attempt(size)
            return size
        except torch.OutOfMemoryError:
            if size == 1:
                raise RunError("not even one clip fits into the GPU's memory beside the model") from None
        size //= 2
        gc.collect()
        torch.cuda.empty_cache()


def clip_bytes(loaded: LoadedModel, example: Example, max_new_tokens: int) -> int:
    """Bytes of the tensors that one clip needs at once, at most: in the encoder, or in the decoder with its cache."""
    own = [t.untyped_storage()._cdata for t in (*loaded.model.parameters(), *loaded.model.buffers())]
    with LiveBytes(own) as encoder:
        clip = encode(loaded, [example], [read_clip(example, loaded)])[0]
    with LiveBytes(own) as decoder:
        (batch,) = batches([clip], 1, loaded.device)
        generate_few(loaded, batch)
    shape = DecoderShape.of(adapter_for(loaded.model).decoder(loaded.model).config)
    width: int = torch.tensor([], dtype=getattr(torch, loaded.dtype)).element_size()
    return max(int(encoder.peak), int(decoder.peak) + shape.kv_bytes([max_new_tokens] * shape.layers, width))


def _try(loaded: LoadedModel, example: Example, count: int) -> None:
    clips = encode(loaded, [example] * count, [read_clip(example, loaded)] * count)
    (batch,) = batches(clips, count, loaded.device)
    generate_few(loaded, batch)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations make inside, as long as they live.

    It counts the same on every device and in every run. What a kernel needs for itself is not seen.

    Args:
        known: storages that are not counted, e.g. those of a model's weights.

    Attributes:
        peak: the most bytes that lived at once.
    """

    def __init__(self, known: Sequence[int] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._now, self._alive = 0, set(known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._now -= size


def free_bytes(device: str) -> int:
    """Bytes that this process can still have: of a GPU, or of the machine's memory within its container's limit."""
    if device == "cuda":
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0]) + int(cached)
    found = [_available(), _group_left()]
    return min(value for value in found if value is not None)


def _available() -> int:
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text(encoding="utf-8").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux: half of what the machine has
        pass
    try:
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE")) // 2
    except (AttributeError, ValueError, OSError):
        return 4 << 30


def _group_left() -> int | None:
    """What the container may still take; None without a limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, taken = ((_GROUP / name).read_text(encoding="utf-8").strip() for name in (limit, used))
            return max(int(most) - int(taken), 0)
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None


def sharers(workers: int, gpus: float | None, device: str) -> int:
    """How many of a run's processes share the memory of one device."""
    if device == "cpu":
        return workers
    return math.ceil(1 / gpus) if gpus else 1
