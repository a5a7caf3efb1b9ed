"""Measures the errors of the estimators against closed forms: the tables of docs/estimators.md. About 20 seconds."""

from __future__ import annotations

import numpy as np

from fastadasp.estimators import gaussian_entropy, knn_entropy, knn_mutual_information, transfer_entropy


def spread(errors: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(errors):+.3f} ± {np.std(errors, ddof=1):.3f}"


def row(*cells: object) -> None:
    """Prints one row of a table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def entropies() -> None:
    """A standard normal."""
    for dims in (1, 2, 3, 5, 8, 10):
        truth = dims / 2 * np.log(2 * np.pi * np.e)
        few, many = (
            [np.random.default_rng(seed).standard_normal((count, dims)) for seed in range(10)] for count in (1000, 5000)
        )
        row(
            dims,
            spread([knn_entropy(points) - truth for points in few]),
            spread([knn_entropy(points) - truth for points in many]),
            spread([knn_entropy(points, metric="chebyshev") - truth for points in many]),
            spread([gaussian_entropy(points, covariance="full") - truth for points in many]),
        )


def informations() -> None:
    """Gaussians whose channels are correlated in pairs."""
    for dims in (1, 2, 3, 5, 8, 10):
        cells = []
        for truth in (0.0, 0.4, 1.0):
            correlation = np.sqrt(1 - np.exp(-2 * truth / dims))
            errors = []
            for seed in range(5):
                rng = np.random.default_rng(seed)
                x = rng.standard_normal((2000, dims))
                y = correlation * x + np.sqrt(1 - correlation**2) * rng.standard_normal((2000, dims))
                errors.append([knn_mutual_information(x, y, variant=variant) - truth for variant in (1, 2)])
            cells.append(" / ".join(f"{error:+.3f}" for error in np.mean(errors, axis=0)))
        row(dims, *cells)


def transfers() -> None:
    """Autoregressions of which one drives the other."""
    for coupling in (0.0, 0.2, 0.5, 1.0, 2.0):
        xx = 1 / (1 - 0.5**2)
        xy = 0.5 * coupling * xx / (1 - 0.5 * 0.6)
        yy = (coupling**2 * xx + 2 * 0.6 * coupling * xy + 1) / (1 - 0.6**2)
        truth = np.log(yy - (0.6 * yy + coupling * xy) ** 2 / yy) / 2
        forward, backward = [], []
        for seed in range(10):
            noise = np.random.default_rng(seed).standard_normal((4100, 2))
            x, y = np.zeros(4100), np.zeros(4100)
            for t in range(1, 4100):
                x[t] = 0.5 * x[t - 1] + noise[t, 0]
                y[t] = 0.6 * y[t - 1] + coupling * x[t - 1] + noise[t, 1]
            forward.append(transfer_entropy(x[100:], y[100:]) - truth)
            backward.append(transfer_entropy(y[100:], x[100:]))
        row(coupling, f"{truth:.3f}", spread(forward), spread(backward))


if __name__ == "__main__":
    entropies()
    informations()
    transfers()
