"""The estimators against truths in closed form, against an established package, and one backend against the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_processes import PER_DIMENSION, autoregression, normal

from fastadasp.estimators import (
    gaussian_entropy,
    knn_conditional_mutual_information,
    knn_entropy,
    knn_mutual_information,
    project,
    transfer_entropy,
)


def correlated(dims: int, seed: int = 0) -> tuple[np.ndarray, float]:
    """A covariance [D, D] of condition number 9, and the entropy of its Gaussian."""
    turn, _ = np.linalg.qr(normal(dims, dims, seed=seed))
    values = np.linspace(1 / 3, 3, dims) if dims > 1 else np.array([2.0])
    return turn * values @ turn.T, float(dims * PER_DIMENSION + np.log(values).sum() / 2)


def autoregressive_truth(coupling: float) -> float:
    """Transfer entropy from x to y at lags of 1, from the stationary variances.

    Half the log of y's variance given its own past, by that given x's too; the latter is 1, that of the noise.
    """
    xx = 1 / (1 - 0.5**2)
    xy = 0.5 * coupling * xx / (1 - 0.5 * 0.6)
    yy = (coupling**2 * xx + 2 * 0.6 * coupling * xy + 1) / (1 - 0.6**2)
    following = 0.6 * yy + coupling * xy  # covariance of y_t and y_{t-1}
    return float(np.log(yy - following**2 / yy) / 2)


# Truths


@pytest.mark.parametrize("metric", ["euclidean", "chebyshev"])
@pytest.mark.parametrize("dims", range(1, 11))
def test_entropy_of_a_gaussian(dims: int, metric: Any) -> None:
    points = normal(2000, dims, seed=dims)
    assert knn_entropy(points, metric=metric) == pytest.approx(dims * PER_DIMENSION, abs=0.06 + 0.02 * dims)


@pytest.mark.parametrize("dims", range(1, 11))
def test_entropy_of_a_correlated_gaussian(dims: int) -> None:
    covariance, truth = correlated(dims)
    points = np.random.default_rng(1).multivariate_normal(np.full(dims, 5.0), covariance, 2000)
    assert gaussian_entropy(points, covariance="full") == pytest.approx(truth, abs=0.03 + 0.01 * dims)
    # channel by channel what they share is counted again
    channels = dims * PER_DIMENSION + np.log(np.diag(covariance)).sum() / 2
    assert gaussian_entropy(points) == pytest.approx(channels, abs=0.03 + 0.01 * dims)
    # in its principal components, scaled, the cloud is round
    turned = project(points, dims).points
    assert knn_entropy(turned, standardise=True) == pytest.approx(truth, abs=0.08 + 0.02 * dims)


def test_entropy_of_other_distributions() -> None:
    rng = np.random.default_rng(0)
    assert knn_entropy(rng.uniform(0, 4, 5000)) == pytest.approx(np.log(4), abs=0.05)
    assert knn_entropy(rng.exponential(2, 5000)) == pytest.approx(1 + np.log(2), abs=0.07)
    # a Gaussian has the most entropy of all densities with its variance
    assert gaussian_entropy(rng.uniform(0, 4, 5000)) == pytest.approx(PER_DIMENSION + np.log(4 / 12**0.5), abs=0.02)


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("dims", [1, 2])
def test_mutual_information_of_gaussians(dims: int, correlation: float, variant: Any) -> None:
    x, noise = normal(2000, dims, seed=1), normal(2000, dims, seed=2)
    y = correlation * x + (1 - correlation**2) ** 0.5 * noise
    truth = -dims / 2 * np.log(1 - correlation**2)
    assert knn_mutual_information(x, y, variant=variant) == pytest.approx(truth, abs=0.06)


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("dims", range(2, 11))
def test_mutual_information_in_many_dimensions(dims: int, variant: Any) -> None:
    truth = 0.4
    correlation = (1 - np.exp(-2 * truth / dims)) ** 0.5
    x, noise = normal(2000, dims, seed=3), normal(2000, dims, seed=4)
    y = correlation * x + (1 - correlation**2) ** 0.5 * noise
    # the estimate is low, the more so the more dimensions; docs/estimators.md has the measured errors
    assert truth - 0.028 * dims <= knn_mutual_information(x, y, variant=variant) <= truth + 0.04


def test_more_points_come_nearer_to_the_truth() -> None:
    x, noise = normal(6000, 4, seed=3), normal(6000, 4, seed=4)
    y = 0.8 * x + 0.6 * noise
    few, some, many = (knn_mutual_information(x[:rows], y[:rows]) for rows in (300, 1500, 6000))
    assert few < some < many < -4 * np.log(0.6)


@pytest.mark.parametrize("dims", [1, 3, 10])
def test_independence_is_zero(dims: int) -> None:
    x, y, z = normal(2000, dims, seed=5), np.exp(normal(2000, dims, seed=6)), normal(2000, 1, seed=7)
    for variant in (1, 2):
        assert knn_mutual_information(x, y, variant=variant) == pytest.approx(0, abs=0.04)  # type: ignore[arg-type]
    assert knn_conditional_mutual_information(x, y, z) == pytest.approx(0, abs=0.04)


def test_conditional_mutual_information_of_gaussians() -> None:
    z, a, b = normal(3000, seed=1), normal(3000, seed=2), normal(3000, seed=3)
    # a common cause: dependent, but not given the cause
    assert knn_mutual_information(z + a, z + b) == pytest.approx(-np.log(3 / 4) / 2, abs=0.04)
    assert knn_conditional_mutual_information(z + a, z + b, z) == pytest.approx(0, abs=0.04)
    # a common effect: independent, but not given the effect
    assert knn_mutual_information(a, b) == pytest.approx(0, abs=0.04)
    assert knn_conditional_mutual_information(a, b, a + b + z) == pytest.approx(-np.log(3 / 4) / 2, abs=0.04)


@pytest.mark.parametrize("coupling", [0.0, 0.2, 0.5, 1.0, 2.0])
def test_transfer_entropy_of_an_autoregression(coupling: float) -> None:
    x, y = autoregression(coupling, 4000)
    truth = autoregressive_truth(coupling)
    assert transfer_entropy(x, y) == pytest.approx(truth, abs=0.04)
    assert transfer_entropy(y, x) == pytest.approx(0, abs=0.03)  # one way is seen as one way


def test_transfer_entropy_at_lags() -> None:
    x, y = autoregression(1.0, 3000, delay=3)
    at = {delay: transfer_entropy(x, y, delay=delay) for delay in range(1, 6)}
    assert max(at, key=lambda delay: at[delay]) == 3
    assert transfer_entropy(x, y, source_lags=[3]) == at[3] == transfer_entropy(x, y, source_lags=(2,), delay=2)
    assert transfer_entropy(x, y, source_lags=3, target_lags=2) > 0.2
    # more of the target's past leaves the source less to tell
    assert transfer_entropy(x, y, source_lags=1, target_lags=3) < at[3]
    several = transfer_entropy(np.stack((x, normal(3000)), 1), y[:, None], delay=3)
    assert at[3] - 0.15 < several < at[3] + 0.03


def test_lags_do_not_reach_from_one_recording_into_the_next() -> None:
    pairs = normal(400, 2, 2)  # 400 recordings of two steps
    sources, targets = list(pairs[:, :, 0]), list(pairs[:, :, 1])
    pooled = transfer_entropy(sources, targets, standardise=False)
    rows = (pairs[:, 0, 0], pairs[:, 1, 1], pairs[:, 0, 1])
    assert pooled == pytest.approx(knn_conditional_mutual_information(*rows, standardise=False), abs=1e-6)


# Laws


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(1, 3), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_scale_and_shift(seed: int, dims: int, scale: float, shift: float) -> None:
    x, y, z = (normal(150, dims, seed=3 * seed + i) for i in range(3))
    y = y + x
    moved = scale * x + shift
    for variant in (1, 2):
        before = knn_mutual_information(x, y, variant=variant)  # type: ignore[arg-type]
        assert knn_mutual_information(moved, y, variant=variant) == pytest.approx(before, abs=1e-6)  # type: ignore[arg-type]
    before = knn_conditional_mutual_information(x, y, z)
    assert knn_conditional_mutual_information(moved, y, -z) == pytest.approx(before, abs=1e-6)
    assert transfer_entropy(moved, y) == pytest.approx(transfer_entropy(x, y), abs=1e-6)
    gain = dims * np.log(scale)
    for standardise in (False, True):
        raised = knn_entropy(moved, standardise=standardise) - knn_entropy(x, standardise=standardise)
        assert raised == pytest.approx(gain, abs=1e-6)
    for covariance in ("diagonal", "full"):
        raised = gaussian_entropy(moved, covariance=covariance) - gaussian_entropy(x, covariance=covariance)  # type: ignore[arg-type]
        assert raised == pytest.approx(gain, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(1, 6), st.booleans())
def test_mutual_information_is_symmetric(seed: int, k: int, rounded: bool) -> None:
    x, y = normal(150, 2, seed=seed), normal(150, 1, seed=seed + 100)
    x, y = (x.round(), y.round()) if rounded else (x, y + x[:, :1])
    rule: Any = "mixture" if rounded else "jitter"
    assert knn_mutual_information(x, y, k, duplicates=rule) == pytest.approx(
        knn_mutual_information(y, x, k, duplicates=rule), abs=1e-6
    )


def test_entropy_of_scaled_channels() -> None:
    points, scales = normal(3000, 6), np.logspace(-2, 2, 6)
    truth = 6 * PER_DIMENSION + np.log(scales).sum()
    assert knn_entropy(points * scales, standardise=True) == pytest.approx(truth, abs=0.15)
    assert abs(knn_entropy(points * scales) - truth) > 0.5  # what standardising is for


@pytest.mark.parametrize(
    "estimate",
    [
        lambda units: knn_entropy(normal(50, 2), units=units),
        lambda units: gaussian_entropy(normal(50, 2), units=units),
        lambda units: knn_mutual_information(normal(50), normal(50, seed=1), units=units),
        lambda units: knn_conditional_mutual_information(*(normal(50, seed=i) for i in range(3)), units=units),
        lambda units: transfer_entropy(normal(50), normal(50, seed=1), units=units),
    ],
)
def test_bits(estimate: Callable[[str], float]) -> None:
    assert estimate("bits") * np.log(2) == pytest.approx(estimate("nats"), rel=1e-12)
    assert type(estimate("nats")) is type(estimate("bits")) is float
