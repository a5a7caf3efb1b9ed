"""What half precision costs on a CPU: where products run in it, and means and large results that keep its speed."""

from __future__ import annotations

import platform
from functools import cache

import numpy as np
import torch
from torch import Tensor

_HALF = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
"""Instructions that multiply in each half precision, by their names in `torch.cpu.get_capabilities`."""
_INTEGER = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
_LARGE = 16 << 20
"""Bytes from which the allocator takes fresh pages for every tensor, whose first touch costs more than the work."""
_PART = 2 << 20
"""Bytes of a large result that are made at once: they stay in a core's cache until they are copied to their place."""


@cache
def multiplies(dtype: torch.dtype) -> bool:
    """True if this CPU has instructions for products in `dtype`; elsewhere float32 is faster, and exact."""
    if dtype not in _HALF:
        return True
    known = getattr(torch.cpu, "get_capabilities", None)  # torch 2.8 does not tell
    if known is None:
        return dtype == torch.bfloat16 and platform.machine().lower() in ("x86_64", "amd64")
    found = known()
    return any(found.get(name, False) for name in _HALF[dtype])


def empty(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised [rows, width] whose memory comes in large pages where the system has them, as numpy asks."""
    raw = torch.from_numpy(np.empty((rows, width), _INTEGER[dtype.itemsize]))
    return raw.view(dtype)


def bag_sums(flat: Tensor, token: Tensor, share: Tensor, start: Tensor) -> Tensor:
    """Weighted sums of the rows between two starts, [rows, D] -> [starts - 1, D], float32 inside, in `flat`'s dtype.

    In half precision a share is given as two numbers of that precision whose sum is it (a row is listed twice), so no
    digit of it is lost and the states are not copied to float32. Large results are made in parts.

    Args:
        flat: float32, bfloat16 or float16 [rows, D], on a CPU; no gradient is taken.
        token: int64 [members], rows in the order of their sums; share: float32 [members].
        start: int64 [sums + 1], where the members of each sum begin.
    """
    if flat.dtype in _HALF:
        high = share.to(flat.dtype)
        low = (share - high.float()).to(flat.dtype)
        token, share, start = token.repeat_interleave(2), torch.stack((high, low), 1).flatten(), start * 2
    bags, row = len(start) - 1, flat.shape[1] * flat.element_size()
    if bags * row < _LARGE:
        return _bags(flat, token, share, start)
    out, part = empty(bags, flat.shape[1], flat.dtype), max(1, _PART // row)
    edges = start[::part].tolist()
    for number, begin in enumerate(range(0, bags, part)):
        end = min(begin + part, bags)
        first = edges[number]
        last = edges[number + 1] if number + 1 < len(edges) else len(token)
        out[begin:end] = _bags(flat, token[first:last], share[first:last], start[begin : end + 1] - first)
    return out


def _bags(flat: Tensor, token: Tensor, share: Tensor, start: Tensor) -> Tensor:
    sums: Tensor = torch.nn.functional.embedding_bag(
        token, flat, start, mode="sum", per_sample_weights=share, include_last_offset=True
    )
    return sums
