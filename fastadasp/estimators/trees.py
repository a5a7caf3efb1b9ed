"""Neighbours on the CPU: scikit-learn's k-d trees.

Trees rather than scikit-learn's brute force: that expands |a - b|^2 into |a|^2 + |b|^2 - 2ab, whose rounding swallows
the small distances between near duplicates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastadasp.estimators.points import Array


def nearest(points: Array, k: int, metric: str) -> tuple[Array, NDArray[np.int64]]:
    """The k nearest other points, nearest first: [N, D] -> distances float64 [N, k], rows int64 [N, k]."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k, algorithm="kd_tree", metric=metric).fit(points)
    # without an argument no point is its own neighbour, even where it has duplicates
    distance, row = search.kneighbors()
    return distance, row.astype(np.int64)


def count_within(points: Array, radius: Array, *, strict: bool) -> NDArray[np.int64]:
    """How many other points lie within each point's radius in the maximum norm: [N, D], [N] -> int64 [N].

    At exactly the radius a point counts unless `strict`; then `radius` has to be above 0.
    """
    from sklearn.neighbors import KDTree

    reach = np.nextafter(radius, 0) if strict else radius
    counts = KDTree(points, metric="chebyshev").query_radius(points, reach, count_only=True)
    others: NDArray[np.int64] = counts.astype(np.int64) - 1
    return others
