"""What the estimators are given: checked, as float64 on the host, and prepared for a search of neighbours."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from fastadasp.errors import EstimateError

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = NDArray[np.float64]
PointsLike: TypeAlias = "NDArray[Any] | Tensor | Sequence[Any]"
"""Points as callers give them: [N, D], or [N] for one channel; an array, a tensor on any device, or nested lists."""
Units: TypeAlias = Literal["nats", "bits"]

JITTER = 1e-10
"""Standard deviation of the noise that parts duplicates, in standard deviations of the channel."""

Option = TypeVar("Option", bound=str)


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether `value` is a torch tensor, without importing torch: where nobody did, there are none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_points(value: PointsLike, name: str = "points") -> Array:
    """Points as a float64 array on the host: [N] or [N, D] -> [N, D]. `name` is what messages call them.

    Raises:
        EstimateError: not real numbers, another number of dimensions, no points or channels, NaN or infinity.
    """
    if is_tensor(value):
        if value.is_complex():
            raise EstimateError(f"{name} are {value.dtype}; only real numbers have these estimates")
        array = value.detach().cpu().double().numpy()
    else:
        try:
            raw = np.asarray(value)
            if np.iscomplexobj(raw):
                raise TypeError(f"{raw.dtype}")
            array = raw.astype(np.float64)
        except (TypeError, ValueError) as fault:
            raise EstimateError(f"{name} are not a rectangle of real numbers: {fault}") from fault
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.size == 0:
        raise EstimateError(f"{name} have shape {list(array.shape)}; allowed are [N, D] and [N], neither empty")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise EstimateError(f"{name} have {bad} values that are NaN or infinite, of {array.size}; all must be finite")
    return array


def same_length(**sets: Array) -> int:
    """The number of points that all `sets` have.

    Raises:
        EstimateError: they differ.
    """
    lengths = {name: len(points) for name, points in sets.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise EstimateError(f"samples belong together in rows, but the numbers of rows differ: {shown}")
    return next(iter(lengths.values()))


def check_k(k: int, count: int) -> int:
    """`k` as a plain int, where 1 <= k < `count`, the number of points.

    Raises:
        EstimateError: another k.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k < count:
        raise EstimateError(f"k is {k!r}; with {count} points it is a whole number from 1 to {count - 1}")
    return int(k)


def generator(seed: int) -> np.random.Generator:
    """What draws the jitter.

    Raises:
        EstimateError: the seed is no whole number from 0 on.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise EstimateError(f"seed is {seed!r}; allowed are whole numbers from 0 on")
    return np.random.default_rng(seed)


def one_of(name: str, value: str, kind: Any) -> None:
    """Checks that `value` is one of the words of the Literal type `kind`.

    Raises:
        EstimateError: it is not.
    """
    allowed = get_args(kind)
    if value not in allowed:
        raise EstimateError(f"{name} is one of {', '.join(map(str, allowed))}, not {value!r}")


def in_units(nats: float, units: Units) -> float:
    """Nats in the units asked for."""
    return float(nats / np.log(2)) if units == "bits" else float(nats)


def constant_channels(points: Array) -> NDArray[np.bool_]:
    """True for the channels that never change: [N, D] -> bool [D]."""
    # by range as well: the mean of equal values may differ from them in the last bit
    still: NDArray[np.bool_] = (np.ptp(points, axis=0) == 0) | (points.std(axis=0) == 0)
    return still


def jittered(points: Array, rng: np.random.Generator) -> Array:
    """Centred points plus normal noise of `JITTER` standard deviations of each channel: [N, D] -> [N, D].

    Kraskov et al. 2004 (section II) add noise of about 1e-10 where the data are quantised, so that no two points
    coincide. Centring first keeps a large mean from swallowing noise that small.
    """
    centred = points - points.mean(axis=0)
    noisy: Array = centred + JITTER * points.std(axis=0) * rng.standard_normal(points.shape)
    return noisy
