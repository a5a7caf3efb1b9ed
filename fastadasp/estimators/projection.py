"""Projection to fewer dimensions before neighbours are searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastadasp.errors import EstimateError
from fastadasp.estimators.points import Array, PointsLike, as_points, is_tensor

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Projection:
    """Projected points, and what that kept of them."""

    points: Array | Tensor
    """float64 [N, dims]; a tensor on the device of the given points where those were a tensor."""
    variance_kept: float
    """Variance of the projected points by that of the given ones, summed over channels; 0 to 1."""


def project(points: PointsLike, dims: int, reference: PointsLike | None = None) -> Projection:
    """Projects points to their first principal components, or to those of a reference set (scikit-learn's PCA).

    To compare sets, fit all on one reference: entropies are comparable in the same coordinates alone. Components are
    orthonormal and not whitened, so entropies keep their scale. `variance_kept` is the points' own, so it tells when
    the reference's components miss what they vary in.

    Args:
        points: [N, D]; array or tensor.
        dims: number of components, 1 to the smaller of D and the reference's number of points.
        reference: [M, D]; the set that the components are fitted to. None fits them to `points`.

    Returns:
        The projected points and the variance kept.

    Raises:
        EstimateError: an argument is not allowed, or the points are all the same.
    """
    from sklearn.decomposition import PCA

    array = as_points(points)
    fitted = array if reference is None else as_points(reference, "reference")
    if fitted.shape[1] != array.shape[1]:
        raise EstimateError(f"points have {array.shape[1]} channels, the reference {fitted.shape[1]}; they must agree")
    most = min(fitted.shape)
    if isinstance(dims, bool) or not isinstance(dims, int | np.integer) or not 1 <= dims <= most:
        raise EstimateError(
            f"dims is {dims!r}; components of {len(fitted)} points in {fitted.shape[1]} channels are 1 to {most}"
        )
    total = float(array.var(axis=0).sum())
    if total == 0 or np.ptp(fitted, axis=0).max() == 0:
        raise EstimateError("all points are the same, so there is no variance to keep")
    # a fixed seed, for scikit-learn may choose a randomised solver where points and channels are many
    projected = PCA(n_components=int(dims), random_state=0).fit(fitted).transform(array)
    kept = min(1.0, float(projected.var(axis=0).sum()) / total)
    if is_tensor(points):
        import torch

        return Projection(torch.as_tensor(projected, device=points.device), kept)
    return Projection(projected, kept)
