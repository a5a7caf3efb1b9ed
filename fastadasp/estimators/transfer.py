"""Transfer entropy: directed information between series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastadasp.errors import EstimateError
from fastadasp.estimators.information import TieRule, conditional, prepared
from fastadasp.estimators.neighbours import Backend, Search
from fastadasp.estimators.points import Array, PointsLike, Units, as_points, check_k, in_units, is_tensor, one_of

if TYPE_CHECKING:
    from torch import Tensor

SeriesLike: TypeAlias = "PointsLike | Sequence[NDArray[Any]] | Sequence[Tensor]"
"""One series [T, D] or [T], or a list of arrays or tensors: several recordings, whose lengths may differ."""


def transfer_entropy(
    source: SeriesLike,
    target: SeriesLike,
    k: int = 4,
    *,
    source_lags: int | Sequence[int] = 1,
    target_lags: int | Sequence[int] = 1,
    delay: int = 1,
    units: Units = "nats",
    duplicates: TieRule = "jitter",
    standardise: bool = True,
    seed: int = 0,
    backend: Backend = "auto",
) -> float:
    """Transfer entropy from `source` X to `target` Y (Schreiber 2000, eq. 4).

        T = I(Y_t ; X_{t - delay + 1 - l}, l in source_lags | Y_{t - m}, m in target_lags)

    How much the source's past tells of the target's present beyond the target's own past, estimated as the conditional
    mutual information of Frenzel and Pompe 2007. With lags of 1 this is I(Y_{t+1}; X_t | Y_t). `delay` is the
    interaction delay of Wibral et al. 2013.

    Bias: that of `knn_conditional_mutual_information`, towards 0 with more lags and channels. A target history that is
    too short leaves some of the target's own past to the source. Series that move slowly against the sampling have
    neighbours in time among their nearest, which biases upwards. For a test compare with shuffled sources.

    Args:
        source: [T, D_x] or [T], array or tensor; or a list of them, several recordings that are pooled without lags
            reaching from one into the next. CUDA tensors are searched on their device.
        target: the same recordings, equal in T: [T, D_y] or [T].
        k: neighbours, 1 to one less than the rows that have a full history.
        source_lags: number of past values 1, 2, ... of the source, or the lags themselves, each at least 1.
        target_lags: the same for the target.
        delay: steps from source to target, at least 1; delay - 1 is added to every source lag.
        units: unit of the result.
        duplicates: as in `knn_mutual_information`.
        standardise: as in `knn_mutual_information`; a channel has one scale at all lags.
        seed: of the jitter.
        backend: "sklearn", "torch", or "auto": torch for CUDA tensors.

    Returns:
        The transfer entropy in `units`; exactly 0 where source or target never changes. Estimates may fall slightly
        below 0; they are not cut off.

    Raises:
        EstimateError: an argument is not allowed, or too few rows have a full history.
    """
    one_of("units", units, Units)
    one_of("duplicates", duplicates, TieRule)
    if isinstance(delay, bool) or not isinstance(delay, int | np.integer) or delay < 1:
        raise EstimateError(f"delay is {delay!r}; allowed are whole numbers from 1 on")
    past_x = [lag + int(delay) - 1 for lag in _lags("source_lags", source_lags)]
    past_y = _lags("target_lags", target_lags)
    given = _recordings(source), _recordings(target)
    xs, ys = (
        [as_points(part, f"{name} {i}" if len(parts) > 1 else name) for i, part in enumerate(parts)]
        for name, parts in zip(("source", "target"), given, strict=True)
    )
    _check_recordings(xs, ys)
    # scaled and jittered as series: a value is the same at whichever lag it shows
    ready = prepared([np.concatenate(xs), np.concatenate(ys)], duplicates, standardise, seed)
    ends = np.cumsum([len(x) for x in xs])[:-1]
    x, y = (np.split(points, ends) for points in ready)
    longest = max(*past_x, *past_y)
    before, now, own = (
        np.concatenate([_embedded(part, lags, longest) for part in parts])
        for parts, lags in ((x, past_x), (y, [0]), (y, past_y))
    )
    rows = len(now)
    if rows < 2:
        raise EstimateError(
            f"{rows} rows have a full history of {longest} steps, in {len(xs)} series of up to {max(map(len, xs))} "
            "steps; shorten the lags or give longer series"
        )
    nats = conditional(before, now, own, check_k(k, rows), duplicates, Search.of(backend, *given[0], *given[1]))
    return in_units(nats, units)


def _lags(name: str, value: int | Sequence[int]) -> list[int]:
    """Explicit lags: n stands for 1, 2, ..., n."""
    lags: list[Any] = []
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        lags = list(range(1, int(value) + 1))
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        lags = list(value)
    whole = all(isinstance(lag, int | np.integer) and not isinstance(lag, bool) and lag >= 1 for lag in lags)
    if not lags or not whole or len(set(lags)) < len(lags):
        raise EstimateError(f"{name} is {value!r}; allowed are a whole number from 1 on, or distinct lags from 1 on")
    return [int(lag) for lag in lags]


def _recordings(series: SeriesLike) -> Sequence[PointsLike]:
    """The recordings one by one: those of a list of arrays or tensors, else the one series."""
    several = isinstance(series, list | tuple) and any(
        is_tensor(part) or (isinstance(part, np.ndarray) and part.ndim) for part in series
    )
    return series if several else [series]  # type: ignore[list-item, return-value]


def _check_recordings(sources: list[Array], targets: list[Array]) -> None:
    """Raises EstimateError unless the recordings pair up and channels are the same in all."""
    lengths = [len(x) for x in sources], [len(y) for y in targets]
    if lengths[0] != lengths[1]:
        raise EstimateError(f"source and target differ in length: {lengths[0][:8]} against {lengths[1][:8]} steps")
    for name, parts in (("source", sources), ("target", targets)):
        channels = sorted({part.shape[1] for part in parts})
        if len(channels) > 1:
            raise EstimateError(f"the recordings of the {name} differ in their number of channels: {channels}")


def _embedded(series: Array, lags: list[int], longest: int) -> Array:
    """Values at `lags` before each time that has `longest` steps of past: [T, D] -> [T - longest, D lags]."""
    times = np.arange(longest, len(series))
    columns = [series[times - lag] for lag in lags]
    return np.hstack(columns)
