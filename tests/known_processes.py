"""Processes whose information is known in closed form."""

from __future__ import annotations

import numpy as np

PER_DIMENSION = np.log(2 * np.pi * np.e) / 2
"""Entropy of a standard normal, in nats."""


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def autoregression(coupling: float, steps: int, delay: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x drives y: x_t = 0.5 x_{t-1} + noise, y_t = 0.6 y_{t-1} + coupling x_{t-delay} + noise."""
    noise = normal(steps + 100, 2, seed=seed)
    x, y = np.zeros(steps + 100), np.zeros(steps + 100)
    for t in range(delay, steps + 100):
        x[t] = 0.5 * x[t - 1] + noise[t, 0]
        y[t] = 0.6 * y[t - 1] + coupling * x[t - delay] + noise[t, 1]
    return x[100:], y[100:]
