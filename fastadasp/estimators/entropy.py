"""Differential entropy: from nearest neighbours, and of a Gaussian."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from fastadasp.errors import EstimateError
from fastadasp.estimators.neighbours import Backend, Metric, Search
from fastadasp.estimators.points import (
    Array,
    PointsLike,
    Units,
    as_points,
    check_k,
    constant_channels,
    generator,
    in_units,
    jittered,
    one_of,
)

AtomRule: TypeAlias = Literal["jitter", "skip"]
Covariance: TypeAlias = Literal["diagonal", "full"]


def knn_entropy(
    points: PointsLike,
    k: int = 4,
    *,
    metric: Metric = "euclidean",
    units: Units = "nats",
    duplicates: AtomRule = "jitter",
    standardise: bool = False,
    seed: int = 0,
    backend: Backend = "auto",
) -> float:
    """Differential entropy from distances to the k-th nearest neighbour.

        H = psi(N) - psi(k) + log V + D/N sum_i log e_i

    with e_i the distance of point i to its k-th nearest neighbour and V the volume of the unit ball of the metric in D
    dimensions. Kozachenko and Leonenko 1987 for k = 1; for any k eq. 20 of Kraskov, Stögbauer and Grassberger 2004.
    Differential entropy has no lower bound, may be negative, and shifts by D log s when the points are scaled by s.

    Bias: the density is taken as constant within e_i. The error falls with N, grows with D and k, and grows where
    channels differ in scale or depend strongly on each other. Compare sets at equal N and D, so that it cancels in
    part. Points that are close because a series is sampled finely pull the estimate down.

    Args:
        points: [N, D], or [N] for one channel; rows are samples. A CUDA tensor is searched on its device.
        k: neighbours, 1 to N - 1. More are less noisy and more biased.
        metric: norm of the distances.
        units: unit of the result.
        duplicates: what to do with points that coincide (silence gives many), whose e_i of 0 would make the result
            minus infinity. "jitter" adds normal noise of 1e-10 standard deviations of each channel (Kraskov et al.
            2004). Where a share s of the points repeat values that occur more than k times, the result is still about
            23 D s nats lower, and hangs on the noise: they have no density. "skip" leaves out every value that occurs
            more than k times and gives the entropy of the rest.
        standardise: measure distances in standard deviations of each channel, and add their logarithms to the result.
            The same quantity, with less bias where the channels differ in scale.
        seed: of the jitter.
        backend: "sklearn", "torch", or "auto": torch for CUDA tensors.

    Returns:
        The entropy in `units`.

    Raises:
        EstimateError: an argument is not allowed, or a channel is constant, so that there is no density.
    """
    one_of("metric", metric, Metric)
    one_of("units", units, Units)
    one_of("duplicates", duplicates, AtomRule)
    search, rng = Search.of(backend, points), generator(seed)
    array = as_points(points)
    k = check_k(k, len(array))
    if duplicates == "skip":
        array = _without_atoms(array, k, search)
    _refuse_constant(array)
    scale = array.std(axis=0) if standardise else np.ones(array.shape[1])
    array = array / scale
    if duplicates == "jitter":
        array = jittered(array, rng)
    distance = search.nearest(array, k, metric)[0][:, -1]
    nats = _kozachenko_leonenko(distance, array.shape[1], k, metric) + np.log(scale).sum()
    return in_units(nats, units)


def _kozachenko_leonenko(distance: Array, dims: int, k: int, metric: Metric) -> float:
    """Entropy in nats from the distances [N] to the k-th neighbours in `dims` dimensions."""
    from scipy.special import digamma, gammaln

    euclidean = dims / 2 * np.log(np.pi) - gammaln(dims / 2 + 1)
    log_volume = euclidean if metric == "euclidean" else dims * np.log(2)
    return float(digamma(len(distance)) - digamma(k) + log_volume + dims * np.log(distance).mean())


def _without_atoms(points: Array, k: int, search: Search) -> Array:
    """The points but those whose k-th neighbour coincides with them: values that occur more than k times go."""
    kept = points[search.nearest(points, k, "chebyshev")[0][:, -1] > 0]
    if len(kept) <= k:
        raise EstimateError(
            f"only {len(kept)} of {len(points)} points are left without values that occur more than {k} times; "
            f'k = {k} needs {k + 1}. duplicates="jitter" keeps all points'
        )
    return kept


def gaussian_entropy(points: PointsLike, *, covariance: Covariance = "diagonal", units: Units = "nats") -> float:
    """Differential entropy of the Gaussian with the variances or the covariance of the points.

        diagonal    H = sum over channels of log(std) + D/2 log(2 pi e)
        full        H = 1/2 log det(covariance) + D/2 log(2 pi e)

    "diagonal" is the entropy of "MLP Can Be a Good Transformer Learner" (Lin et al., CVPR 2024), which counts what
    channels share once for each of them; "full" is the closed form. Both are upper bounds: of all densities with these
    moments the Gaussian has the largest entropy. Variances are unbiased (divided by N - 1).

    Bias: plugging in the sample's covariance is low by about D (D + 1) / 4N nats ("full"), D / 2N ("diagonal").

    Args:
        points: [N, D], or [N] for one channel; array or tensor; N at least 2, above D for "full".
        covariance: which of the two.
        units: unit of the result.

    Returns:
        The entropy in `units`.

    Raises:
        EstimateError: an argument is not allowed, a channel is constant, or the covariance is singular.
    """
    one_of("covariance", covariance, Covariance)
    one_of("units", units, Units)
    array = as_points(points)
    _refuse_constant(array)
    dims = array.shape[1]
    std = array.std(axis=0, ddof=1)
    nats = np.log(std).sum() + dims / 2 * np.log(2 * np.pi * np.e)
    if covariance == "full":
        # of standardised channels, so that rank does not hang on their units
        values = np.linalg.svd((array - array.mean(axis=0)) / std, compute_uv=False)
        rank = int((values > values[0] * max(array.shape) * np.finfo(np.float64).eps).sum())
        if rank < dims or len(array) <= dims:
            raise EstimateError(
                f"the covariance of {len(array)} points in {dims} dimensions is singular (rank {rank}), so its entropy "
                "is minus infinity; project to fewer dimensions or give more points"
            )
        nats += np.log(values).sum() - dims / 2 * np.log(len(array) - 1)
    return in_units(float(nats), units)


def _refuse_constant(points: Array) -> None:
    """Raises EstimateError where a channel never changes: no density, and an entropy of minus infinity."""
    still = np.flatnonzero(constant_channels(points))
    if len(still):
        shown = ", ".join(map(str, still[:5])) + (" and others" if len(still) > 5 else "")
        raise EstimateError(
            f"{len(still)} of {points.shape[1]} channels are constant (channel {shown}), so the entropy is minus "
            "infinity; leave them out or project"
        )
