"""The search of neighbours behind all estimators: which backend, and the two questions asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastadasp.estimators.points import Array, is_tensor, one_of

Backend: TypeAlias = Literal["auto", "sklearn", "torch"]
Metric: TypeAlias = Literal["euclidean", "chebyshev"]


@dataclass(frozen=True)
class Search:
    """Where neighbours are searched: scikit-learn's trees, or torch on a device. Both give the same answer."""

    device: str | None = None
    """None for scikit-learn."""

    @classmethod
    def of(cls, backend: Backend, *given: object) -> Search:
        """The search that `backend` asks for; "auto" is torch where one of the `given` sets is a CUDA tensor.

        Raises:
            EstimateError: an unknown backend.
        """
        one_of("backend", backend, Backend)
        cuda = next((str(value.device) for value in given if is_tensor(value) and value.is_cuda), None)
        if backend == "sklearn" or (backend == "auto" and cuda is None):
            return cls()
        return cls(cuda or "cpu")

    def nearest(self, points: Array, k: int, metric: Metric) -> tuple[Array, NDArray[np.int64]]:
        """The k nearest other points, nearest first: [N, D] -> distances float64 [N, k], rows int64 [N, k]."""
        if self.device is None:
            from fastadasp.estimators import trees

            return trees.nearest(points, k, metric)
        from fastadasp.estimators import blocks

        return blocks.nearest(points, k, metric, self.device)

    def count_within(self, points: Array, radius: Array, *, strict: bool) -> NDArray[np.int64]:
        """How many other points lie within each point's radius in the maximum norm: [N, D], [N] -> int64 [N].

        At exactly the radius a point counts unless `strict`; then `radius` has to be above 0. Points without channels
        all coincide.
        """
        if points.shape[1] == 0:
            return np.full(len(points), len(points) - 1)
        if self.device is None:
            from fastadasp.estimators import trees

            return trees.count_within(points, radius, strict=strict)
        from fastadasp.estimators import blocks

        return blocks.count_within(points, radius, strict=strict, device=self.device)
