"""Neighbours by brute force in torch, a block of rows at a time: for CUDA, and the same on a CPU.

In float64, and from differences rather than a matrix product, so that distances are those of `trees.py`: bit for bit in
the maximum norm, to rounding in the Euclidean one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastadasp.estimators.points import Array

BLOCK_BYTES = 32 * 2**20
"""Size of one block of distances; with the next block and the workspace of the search, memory stays below 256 MB."""


def block_rows(count: int) -> int:
    """How many rows of distances to `count` points are held at once."""
    return min(count, max(1, BLOCK_BYTES // (8 * count)))


def blocks(points: Tensor, p: float) -> Iterator[tuple[int, Tensor]]:
    """First row and distances to all points, of one block of rows after another: [N, D] -> int, [rows, N]."""
    step = block_rows(len(points))
    for start in range(0, len(points), step):
        rows = points[start : start + step]
        yield start, torch.cdist(rows, points, p=p, compute_mode="donot_use_mm_for_euclid_dist")


def nearest(points: Array, k: int, metric: str, device: str) -> tuple[Array, NDArray[np.int64]]:
    """The k nearest other points, nearest first: [N, D] -> distances float64 [N, k], rows int64 [N, k]."""
    distances, neighbours = [], []
    for start, distance in blocks(torch.as_tensor(points, device=device), 2.0 if metric == "euclidean" else torch.inf):
        distance.diagonal(start).fill_(torch.inf)  # no point is its own neighbour
        found = distance.topk(k, largest=False, sorted=True)
        distances.append(found.values.cpu())
        neighbours.append(found.indices.cpu())
    return torch.cat(distances).numpy(), torch.cat(neighbours).numpy()


def count_within(points: Array, radius: Array, *, strict: bool, device: str) -> NDArray[np.int64]:
    """How many other points lie within each point's radius in the maximum norm: [N, D], [N] -> int64 [N].

    At exactly the radius a point counts unless `strict`; then `radius` has to be above 0.
    """
    counts = []
    reach = torch.as_tensor(radius, device=device).unsqueeze(1)
    for start, distance in blocks(torch.as_tensor(points, device=device), torch.inf):
        limit = reach[start : start + len(distance)]
        counts.append((distance < limit if strict else distance <= limit).sum(1).cpu() - 1)
    return torch.cat(counts).numpy()
