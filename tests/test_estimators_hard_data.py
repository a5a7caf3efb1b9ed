"""Estimators on hard data: copies, silence, mixtures, many points, wrong input."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known_processes import PER_DIMENSION, autoregression, normal

from fastadasp import estimators
from fastadasp.errors import EstimateError, FastAdaSPError
from fastadasp.estimators import (
    gaussian_entropy,
    knn_conditional_mutual_information,
    knn_entropy,
    knn_mutual_information,
    project,
    transfer_entropy,
)

PAGE = (Path(__file__).parents[1] / "docs" / "estimators.md").read_text(encoding="utf-8")


# Ties and duplicates


def test_silence_leaves_the_entropy_of_the_rest() -> None:
    points = np.concatenate((normal(2000, 3) + 8, np.zeros((500, 3))))
    loud = knn_entropy(points[:2000])
    assert knn_entropy(points, duplicates="skip") == pytest.approx(loud, abs=1e-6)
    jittered = knn_entropy(points)
    # a fifth of the points have no density: 23 nats a dimension lower, and the same for the same seed
    assert jittered == pytest.approx(0.8 * loud - 0.2 * 3 * 23, abs=3)
    assert jittered == knn_entropy(points) != knn_entropy(points, seed=1)
    with pytest.raises(EstimateError, match="only 0 of 300 points are left"):
        knn_entropy(np.repeat(normal(3, 2), 100, axis=0), duplicates="skip")


def test_few_copies_change_little() -> None:
    points = normal(2000, 2)
    copied = np.concatenate((points, points[:3], points[:3]))
    for rule in ("jitter", "skip"):
        assert knn_entropy(copied, duplicates=rule) == pytest.approx(knn_entropy(points), abs=0.02)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", [1, 2])
def test_quantised_values_are_jittered_apart(variant: Any) -> None:
    x, y = normal(2000, seed=1), normal(2000, seed=2)
    fine = knn_mutual_information(x, x + y, variant=variant)
    coarse = knn_mutual_information(x.round(2), (x + y).round(2), variant=variant)
    assert coarse == pytest.approx(fine, abs=0.02)


def test_mixtures_of_discrete_and_continuous_values() -> None:
    rng = np.random.default_rng(0)
    coin, dice = rng.integers(0, 2, 2000), rng.integers(0, 5, 2000)
    assert knn_mutual_information(coin, coin, duplicates="mixture") == pytest.approx(np.log(2), abs=0.01)
    assert knn_mutual_information(coin, dice, duplicates="mixture") == pytest.approx(0, abs=0.01)
    # Gao et al. 2017, experiment II: Y uniform on [X, X + 2]
    spread = dice + rng.uniform(0, 2, 2000)
    truth = np.log(5) - 4 * np.log(2) / 5
    assert knn_mutual_information(dice, spread, duplicates="mixture") == pytest.approx(truth, abs=0.06)
    # silence in both at once: which it is, one bit, is all they share
    loud = coin == 1
    x, y = loud * (9 + normal(2000, seed=1)), loud * (9 + normal(2000, seed=2))
    assert knn_mutual_information(x, y, duplicates="mixture", units="bits") == pytest.approx(1, abs=0.05)
    parity = (coin + dice) % 2
    assert knn_conditional_mutual_information(coin, parity, dice, duplicates="mixture", units="bits") == pytest.approx(
        1, abs=0.05
    )
    nothing = knn_conditional_mutual_information(coin, dice, coin, duplicates="mixture")
    assert nothing == pytest.approx(0, abs=0.01)


def test_what_never_changes_informs_of_nothing() -> None:
    x, still = normal(100), np.full((100, 2), 0.1)
    for rule in ("jitter", "mixture"):
        assert knn_mutual_information(x, still, duplicates=rule) == 0  # type: ignore[arg-type]
        assert knn_conditional_mutual_information(still, x, x, duplicates=rule) == 0  # type: ignore[arg-type]
        assert transfer_entropy(x, still, duplicates=rule) == 0  # type: ignore[arg-type]
    assert knn_mutual_information(still, x, variant=2) == 0
    y = x + normal(100, seed=1)
    assert knn_conditional_mutual_information(x, y, still) == knn_mutual_information(x, y)
    assert knn_mutual_information(np.column_stack((x, still)), y) == pytest.approx(
        knn_mutual_information(x, y), abs=1e-6
    )


# Backends, and another package

CALLS: dict[str, Callable[..., float]] = {
    "entropy": lambda x, y, z, **where: knn_entropy(x, **where),
    "chebyshev": lambda x, y, z, **where: knn_entropy(x, metric="chebyshev", standardise=True, **where),
    "skip": lambda x, y, z, **where: knn_entropy(x.round(), duplicates="skip", k=2, **where),
    "variant 1": lambda x, y, z, **where: knn_mutual_information(x, y, **where),
    "variant 2": lambda x, y, z, **where: knn_mutual_information(x, y, variant=2, **where),
    "ties": lambda x, y, z, **where: knn_mutual_information(x.round(), y.round(), duplicates="mixture", **where),
    "conditional": lambda x, y, z, **where: knn_conditional_mutual_information(x, y, z, **where),
    "transfer": lambda x, y, z, **where: transfer_entropy(x, y, source_lags=2, **where),
}


def three(rows: int = 400) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y, z = (torch.from_numpy(normal(rows, dims, seed=dims)) for dims in (2, 3, 1))
    return x, y + x[:, :1], z


@pytest.mark.parametrize("name", CALLS)
def test_backends_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadasp.estimators import blocks

    sets = three()
    trees = CALLS[name](*sets, backend="sklearn")
    assert CALLS[name](*sets, backend="torch") == pytest.approx(trees, abs=1e-12)
    assert CALLS[name](*sets) == trees == CALLS[name](*(part.numpy() for part in sets))
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 400 * 7)  # 58 blocks, the last of one row
    assert CALLS[name](*sets, backend="torch") == pytest.approx(trees, abs=1e-12)


def test_blocks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadasp.estimators import blocks

    assert blocks.block_rows(1000) == 1000
    assert blocks.block_rows(10**6) * 8 * 10**6 <= blocks.BLOCK_BYTES <= 32 * 2**20
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2**16)
    assert max(d.numel() for _, d in blocks.blocks(torch.zeros(2000, 2, dtype=torch.float64), 2.0)) <= 2**13


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int16])
def test_tensors_of_any_type(dtype: torch.dtype) -> None:
    points = (100 * torch.from_numpy(normal(60, 2))).to(dtype).requires_grad_(dtype.is_floating_point)
    assert knn_entropy(points) == knn_entropy(points.detach().double().numpy().tolist())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_cuda_gives_the_same_and_stays_small() -> None:
    sets = three(9000)
    torch.cuda.reset_peak_memory_stats()
    for call in CALLS.values():
        found = call(*(part.cuda() for part in sets))
        assert found == pytest.approx(call(*sets, backend="sklearn"), abs=1e-9)
    assert torch.cuda.max_memory_allocated() < 256 * 2**20
    assert project(sets[1].cuda(), 2).points.is_cuda  # type: ignore[union-attr]


def test_same_as_infomeasure() -> None:
    infomeasure = pytest.importorskip("infomeasure")
    x, y, z = (part.numpy() for part in three(500))
    for metric, p in (("euclidean", 2), ("chebyshev", np.inf)):
        theirs = infomeasure.entropy(y, approach="metric", k=4, minkowski_p=p, base="e")
        assert knn_entropy(y, metric=metric) == pytest.approx(theirs, abs=1e-6)  # type: ignore[arg-type]
    # its variant 2 counts in squares, not in the paper's rectangles; that one is held by closed forms
    options = {"approach": "ksg", "k": 3, "base": "e"}
    theirs = infomeasure.mutual_information(x, y, **options)
    assert knn_mutual_information(x, y, 3, standardise=False) == pytest.approx(theirs, abs=1e-6)
    theirs = infomeasure.conditional_mutual_information(x, y, cond=z, **options)
    assert knn_conditional_mutual_information(x, y, z, 3, standardise=False) == pytest.approx(theirs, abs=1e-6)
    a, b = autoregression(0.7, 500)
    for lags in (1, 2):
        theirs = infomeasure.transfer_entropy(a, b, src_hist_len=lags, dest_hist_len=lags, **options)
        ours = transfer_entropy(a, b, 3, source_lags=lags, target_lags=lags, standardise=False)
        assert ours == pytest.approx(theirs, abs=1e-6)


# Projection


def test_projection_keeps_what_varies() -> None:
    flat = normal(300, 2) @ normal(2, 12, seed=1) + 7
    found = project(flat, 2)
    assert found.variance_kept == pytest.approx(1)
    assert np.cov(np.asarray(found.points).T)[0, 1] == pytest.approx(0, abs=1e-9)
    assert np.asarray(found.points).var(axis=0).sum() == pytest.approx(flat.var(axis=0).sum())
    round_cloud = normal(20_000, 4)
    assert project(round_cloud, 1).variance_kept == pytest.approx(1 / 4, abs=0.02)


def test_projection_of_one_set_onto_the_components_of_another() -> None:
    reference = normal(300, 4) * [9, 5, 0.1, 0.1]
    same = project(reference, 2, reference)
    assert np.array_equal(np.asarray(same.points), np.asarray(project(reference, 2).points))
    elsewhere = project(normal(300, 4, seed=1) * [0.1, 0.1, 5, 9], 2, reference)
    assert elsewhere.variance_kept < 0.05  # the points' own variance, not the reference's
    tensor = project(torch.from_numpy(reference).float(), 2)
    assert isinstance(tensor.points, torch.Tensor)
    assert tensor.points.shape == (300, 2)
    assert knn_entropy(tensor.points) == pytest.approx(knn_entropy(same.points), abs=1e-3)


# Messages, cost, documentation

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "k of 0": (lambda: knn_entropy(normal(9), 0), "k is 0; with 9 points it is a whole number from 1 to 8"),
    "k of N": (lambda: knn_entropy(normal(9), 9), "k is 9; with 9 points"),
    "k of 2.5": (lambda: knn_mutual_information(normal(9), normal(9), 2.5), "k is 2.5"),  # type: ignore[arg-type]
    "one point": (lambda: knn_entropy(normal(1, 3), 1), "k is 1; with 1 point"),
    "no points": (lambda: knn_entropy(np.zeros((0, 3))), r"points have shape \[0, 3\]; allowed are"),
    "a batch": (lambda: knn_entropy(normal(5, 5, 5)), r"points have shape \[5, 5, 5\]"),
    "words": (lambda: knn_entropy(["a", "b"]), "points are not a rectangle of real numbers"),
    "ragged": (lambda: knn_entropy([[1.0], [1.0, 2.0]]), "points are not a rectangle of real numbers"),
    "complex": (lambda: knn_entropy(normal(9) * 1j), "real numbers"),
    "complex tensor": (lambda: knn_entropy(torch.zeros(9, dtype=torch.complex64)), "real numbers"),
    "not finite": (lambda: knn_entropy([1.0, 2.0, np.nan, np.inf]), "2 values that are NaN or infinite, of 4"),
    "metric": (lambda: knn_entropy(normal(9), metric="l1"), "metric is one of euclidean, chebyshev, not 'l1'"),  # type: ignore[arg-type]
    "units": (lambda: gaussian_entropy(normal(9), units="bans"), "units is one of nats, bits, not 'bans'"),  # type: ignore[arg-type]
    "backend": (lambda: knn_entropy(normal(9), backend="cuda"), "backend is one of auto, sklearn, torch"),  # type: ignore[arg-type]
    "rule": (lambda: knn_entropy(normal(9), duplicates="mixture"), "duplicates is one of jitter, skip"),  # type: ignore[arg-type]
    "variant": (lambda: knn_mutual_information(normal(9), normal(9), variant=3), "variant is 1 or 2, not 3"),  # type: ignore[arg-type]
    "variant 2 with ties": (
        lambda: knn_mutual_information(normal(9), normal(9), variant=2, duplicates="mixture"),
        "extends variant 1",
    ),
    "constant": (lambda: knn_entropy(np.ones((9, 3))), r"3 of 3 channels are constant \(channel 0, 1, 2\)"),
    "covariance": (lambda: gaussian_entropy(normal(9), covariance="none"), "covariance is one of diagonal, full"),  # type: ignore[arg-type]
    "singular": (
        lambda: gaussian_entropy(normal(9, 2)[:, [0, 1, 0]], covariance="full"),
        r"9 points in 3 dimensions is singular \(rank 2\)",
    ),
    "few points": (lambda: gaussian_entropy(normal(3, 3), covariance="full"), r"singular \(rank 2\)"),
    "lengths": (lambda: knn_mutual_information(normal(9), normal(8)), "numbers of rows differ: x 9, y 8"),
    "lags of 0": (lambda: transfer_entropy(normal(9), normal(9), source_lags=0), "source_lags is 0"),
    "lag of 0": (lambda: transfer_entropy(normal(9), normal(9), target_lags=[0, 1]), r"target_lags is \[0, 1\]"),
    "lags twice": (lambda: transfer_entropy(normal(9), normal(9), target_lags=[1, 1]), r"target_lags is \[1, 1\]"),
    "half a lag": (lambda: transfer_entropy(normal(9), normal(9), source_lags=2.5), "source_lags is 2.5"),  # type: ignore[arg-type]
    "no lags": (lambda: transfer_entropy(normal(9), normal(9), target_lags=None), "target_lags is None"),  # type: ignore[arg-type]
    "a lag in words": (lambda: transfer_entropy(normal(9), normal(9), target_lags="1"), "target_lags is '1'"),  # type: ignore[arg-type]
    "seed": (lambda: transfer_entropy(normal(9), normal(9), seed=-1), "seed is -1; allowed are whole numbers"),
    "seed of an entropy": (lambda: knn_entropy(normal(9), seed=0.5), "seed is 0.5"),  # type: ignore[arg-type]
    "seed without jitter": (
        lambda: knn_mutual_information(normal(9), normal(9), duplicates="mixture", seed=-1),
        "seed is -1",
    ),
    "delay": (lambda: transfer_entropy(normal(9), normal(9), delay=0), "delay is 0"),
    "short": (lambda: transfer_entropy(normal(9), normal(9), target_lags=8), "1 rows have a full history of 8 steps"),
    "series": (lambda: transfer_entropy(normal(9), normal(8)), r"differ in length: \[9\] against \[8\]"),
    "channels": (
        lambda: transfer_entropy([normal(9, 2), normal(9)], [normal(9), normal(9)]),
        r"the recordings of the source differ in their number of channels: \[1, 2\]",
    ),
    "recording": (
        lambda: transfer_entropy([normal(9), normal(0)], [normal(9), normal(0)]),
        r"source 1 have shape \[0, 1\]",
    ),
    "dims": (lambda: project(normal(9, 3), 4), "dims is 4; components of 9 points in 3 channels are 1 to 3"),
    "reference": (lambda: project(normal(9, 3), 1, normal(9, 2)), "3 channels, the reference 2"),
    "no variance": (lambda: project(np.ones((9, 3)), 1), "all points are the same"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_messages(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(EstimateError, match=message) as caught:
        call()
    assert isinstance(caught.value, FastAdaSPError)


def test_importing_costs_neither_torch_nor_sklearn() -> None:
    code = (
        "import sys, fastadasp.estimators as e; e.gaussian_entropy([1.0, 2.0]); "
        "print(*sorted({'torch', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_five_thousand_points_in_sixteen_dimensions() -> None:
    knn_entropy(normal(9))  # imports
    start = time.process_time()
    found = knn_entropy(normal(5000, 16))
    assert time.process_time() - start <= 2  # of one core, whatever else the machine does
    assert found == pytest.approx(16 * PER_DIMENSION, abs=0.7)


def test_page_names_everything_and_its_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    for name in estimators.__all__:
        assert f"`{name}`" in PAGE
        if inspect.isfunction(found := getattr(estimators, name)):
            for word in ("Args:", "Returns:", "Raises:"):
                assert word in inspect.cleandoc(found.__doc__ or "")
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "docs/estimators.md", "exec"), {})
    forward, backward = (float(part) for part in capsys.readouterr().out.split()[-2:])
    assert forward > 0.1 > 0.03 > abs(backward)
