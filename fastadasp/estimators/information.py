"""Mutual information and conditional mutual information from nearest neighbours."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from fastadasp.errors import EstimateError
from fastadasp.estimators.neighbours import Backend, Search
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
    same_length,
)

TieRule: TypeAlias = Literal["jitter", "mixture"]


def knn_mutual_information(
    x: PointsLike,
    y: PointsLike,
    k: int = 4,
    *,
    variant: Literal[1, 2] = 1,
    units: Units = "nats",
    duplicates: TieRule = "jitter",
    standardise: bool = True,
    seed: int = 0,
    backend: Backend = "auto",
) -> float:
    """Mutual information I(X; Y) after Kraskov, Stögbauer and Grassberger 2004.

        variant 1 (eq. 8)    psi(k) - <psi(n_x + 1) + psi(n_y + 1)> + psi(N)
        variant 2 (eq. 9)    psi(k) - 1/k - <psi(n_x) + psi(n_y)> + psi(N)

    In the maximum norm of (x, y). Variant 1 counts in n_x the other points whose x lies strictly nearer than the k-th
    neighbour in the joint space; variant 2 those at most as far in x as the farthest in x of the k neighbours.

    Bias: near 0 for independent X and Y at any N. Below the truth where dependence is strong for the sample: about
    log N is the most that N points can show, and it takes more points the more dimensions there are. Variant 2 suits
    more dimensions, variant 1 has the smaller spread. The result may fall slightly below 0; it is not cut off.

    Args:
        x: [N, D_x], or [N]; array or tensor. A CUDA tensor is searched on its device.
        y: [N, D_y], or [N]; row i belongs to row i of `x`.
        k: neighbours, 1 to N - 1.
        variant: which of the two.
        units: unit of the result.
        duplicates: "jitter" adds normal noise of 1e-10 standard deviations of each channel, so that no two points
            coincide (Kraskov et al. 2004). "mixture", for variant 1, takes ties as they are: all points at the k-th
            distance count, in the joint space too, so that repeated and discrete values are estimated as such (Gao,
            Kannan, Oh and Viswanath 2017, in the digamma form of Mesner and Shalizi 2021).
        standardise: scale each channel to a standard deviation of 1 first, as Kraskov et al. advise, which makes the
            result invariant to shifts and scales of channels. ("mixture" scales by the nearest power of two, which is
            exact in floating point and leaves ties be.)
        seed: of the jitter.
        backend: "sklearn", "torch", or "auto": torch for CUDA tensors.

    Returns:
        The mutual information in `units`; exactly 0 where x or y never changes.

    Raises:
        EstimateError: an argument is not allowed.
    """
    if variant not in (1, 2):
        raise EstimateError(f"variant is 1 or 2, not {variant!r}")
    if variant == 2 and duplicates == "mixture":
        raise EstimateError('duplicates="mixture" extends variant 1; with variant 2 it is "jitter"')
    sets, k = _checked(k, units, duplicates, x=x, y=y)
    a, b = prepared(sets, duplicates, standardise, seed)
    search = Search.of(backend, x, y)
    nothing = np.empty((len(a), 0))
    nats = conditional(a, b, nothing, k, duplicates, search) if variant == 1 else _rectangles(a, b, k, search)
    return in_units(nats, units)


def knn_conditional_mutual_information(
    x: PointsLike,
    y: PointsLike,
    z: PointsLike,
    k: int = 4,
    *,
    units: Units = "nats",
    duplicates: TieRule = "jitter",
    standardise: bool = True,
    seed: int = 0,
    backend: Backend = "auto",
) -> float:
    """Conditional mutual information I(X; Y | Z) after Frenzel and Pompe 2007.

        psi(k) - <psi(n_xz + 1) + psi(n_yz + 1) - psi(n_z + 1)>

    In the maximum norm of (x, y, z); n_xz counts the other points strictly nearer in (x, z) than the k-th neighbour in
    the joint space. With a constant z this is variant 1 of `knn_mutual_information`.

    Bias: towards 0, more so with more dimensions, most of all in z, and with stronger dependence on z. To test for
    independence compare with the same estimate after shuffling. The result may fall slightly below 0; it is not cut
    off.

    Args:
        x: [N, D_x], or [N]; array or tensor. A CUDA tensor is searched on its device.
        y: [N, D_y], or [N].
        z: [N, D_z], or [N]; rows of all three belong together.
        k: neighbours, 1 to N - 1.
        units: unit of the result.
        duplicates: as in `knn_mutual_information`.
        standardise: as in `knn_mutual_information`.
        seed: of the jitter.
        backend: "sklearn", "torch", or "auto": torch for CUDA tensors.

    Returns:
        The conditional mutual information in `units`; exactly 0 where x or y never changes.

    Raises:
        EstimateError: an argument is not allowed.
    """
    sets, k = _checked(k, units, duplicates, x=x, y=y, z=z)
    a, b, c = prepared(sets, duplicates, standardise, seed)
    return in_units(conditional(a, b, c, k, duplicates, Search.of(backend, x, y, z)), units)


def _checked(k: int, units: Units, duplicates: TieRule, **given: PointsLike) -> tuple[list[Array], int]:
    """The sets as arrays [N, D] of equal N, and k; EstimateError where something is not allowed."""
    one_of("units", units, Units)
    one_of("duplicates", duplicates, TieRule)
    sets = {name: as_points(points, name) for name, points in given.items()}
    return list(sets.values()), check_k(k, same_length(**sets))


def prepared(sets: list[Array], duplicates: TieRule, standardise: bool, seed: int) -> list[Array]:
    """The sets as the search gets them: without constant channels, scaled, and jittered if asked for."""
    rng = generator(seed)
    ready = []
    for points in sets:
        # a constant channel informs of nothing; what is left may have no channel at all
        points = points[:, ~constant_channels(points)]
        if standardise and points.shape[1]:
            std = points.std(axis=0)
            points = points / (std if duplicates == "jitter" else np.exp2(np.round(np.log2(std))))
        ready.append(jittered(points, rng) if duplicates == "jitter" else points)
    return ready


def conditional(x: Array, y: Array, z: Array, k: int, duplicates: TieRule, search: Search) -> float:
    """I(X; Y | Z) in nats of prepared sets; a `z` of no channels gives I(X; Y)."""
    from scipy.special import digamma

    if not x.shape[1] or not y.shape[1]:
        return 0.0
    joint, xz, yz = np.hstack((x, y, z)), np.hstack((x, z)), np.hstack((y, z))
    radius = search.nearest(joint, k, "chebyshev")[0][:, -1]
    if duplicates == "mixture":
        n_xz, n_yz, n_z, n = (search.count_within(part, radius, strict=False) for part in (xz, yz, z, joint))
        return float((digamma(n) - digamma(n_xz) - digamma(n_yz) + digamma(n_z)).mean())
    n_xz, n_yz, n_z = (search.count_within(part, radius, strict=True) + 1 for part in (xz, yz, z))
    return float(digamma(k) - (digamma(n_xz) + digamma(n_yz) - digamma(n_z)).mean())


def _rectangles(x: Array, y: Array, k: int, search: Search) -> float:
    """I(X; Y) in nats of prepared sets by variant 2."""
    from scipy.special import digamma

    if not x.shape[1] or not y.shape[1]:
        return 0.0
    _, rows = search.nearest(np.hstack((x, y)), k, "chebyshev")
    counts = []
    for part in (x, y):
        # the same subtraction and maximum as in the search, so that the farthest neighbour itself is counted
        reach = np.abs(part[rows] - part[:, None]).max(axis=(1, 2))
        counts.append(search.count_within(part, reach, strict=False))
    return float(digamma(k) - 1 / k - (digamma(counts[0]) + digamma(counts[1])).mean() + digamma(len(x)))
