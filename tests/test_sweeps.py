"""The tool that chooses a layer selector on one half of the tasks and reports it on the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fastadasp import RunError
from fastadasp.experiments.sweep import Estimate, Sweep, _halves
from tools import sweeps

DEFAULT = {"name": "s", "k": 4}


def estimate(k: int, correlation: float | None, behind: float) -> Estimate:
    return Estimate(
        selector={"name": "s", "k": k},
        layer=1,
        losses={0: 1.0, 1: 0.0},
        correlation=correlation,
        correlation_full=None,
        behind=behind,
        seconds=1.0,
        details={},
    )


def swept(task: str, halves: float | None, *estimates: Estimate) -> Sweep:
    return Sweep(
        model_hash="abc",
        task=task,
        strategy="weighted",
        budget="flops=0.3",
        metric="wer",
        higher_is_better=False,
        clips=134,
        calibration=["a"],
        calibration_from="clips kept for choosing",
        full=5.0,
        outcome={0: 9.0, 1: 6.0},
        outcome_full={0: 4.0, 1: 2.0},
        halves=halves,
        left_out={},
        estimates=list(estimates),
    )


def test_a_selector_is_chosen_on_one_half_and_reported_on_the_other() -> None:
    found = [
        swept("asr", 0.9, estimate(3, 0.9, 0.0), estimate(4, 0.2, 2.0)),
        swept("er", 0.1, estimate(3, -1.0, 9.0), estimate(4, 1.0, 0.0)),  # tells nothing apart, so it has no vote
        swept("asr-noise", 0.8, estimate(3, 0.4, 1.0), estimate(4, 0.6, 0.5)),
        swept("sqa", 0.95, estimate(3, None, 3.0), estimate(4, 0.8, 0.0)),
    ]
    page = sweeps.report(found, DEFAULT)
    assert "3 of 4 sweeps tell layers apart" in page
    forth, back = sweeps.HALVES
    there, here = ", ".join(forth), ", ".join(back)
    assert f"| {there} | {here} | 2 | k=3 name=s | 0.20 | 1 of 2 | 2.0 |" in page
    assert f"| {there} | {here} | 2 | k=4 name=s (the default) | 0.70 | 2 of 2 | 0.2 |" in page
    assert f"| {here} | {there} | 1 | k=4 name=s (the default) | 0.20 | 0 of 1 | 2.0 |" in page
    assert "| always 0 | 0 of 3 | 3.0 |" in page
    assert "| always 1 | 3 of 3 | 0.0 |" in page
    assert "| `3` | `-` | 0.43 | 2 of 3 | 1.3 | 0.08 | 2 of 4 | 3.2 |" in page
    assert page.index("| `4` | `-` | 0.53 |") < page.index("| `3` | `-` | 0.43 |"), "the best first"


def test_halves_without_a_clear_sweep_say_so() -> None:
    assert "| 0 | too few clear sweeps |" in sweeps.report([swept("asr", 0.9, estimate(3, 0.9, 0.0))], DEFAULT)


def test_a_file_that_is_no_sweep(tmp_path: Path) -> None:
    file = tmp_path / "asr.json"
    file.write_text(json.dumps([swept("asr", 0.9, estimate(3, 0.9, 0.0)).model_dump(mode="json")]))
    assert sweeps.read(file, "abc").task == "asr"
    with pytest.raises(RunError, match="of another model"):
        sweeps.read(file, "def")
    file.write_text("[]")
    with pytest.raises(RunError, match="holds no sweep"):
        sweeps.read(file, "abc")


def test_tasks_that_share_recordings_are_in_one_half() -> None:
    first, second = sweeps.HALVES
    assert not set(first) & set(second)
    assert {"asr", "st"} <= set(first)
    assert "form" in sweeps.default_selector()


def test_halves_share_no_recording() -> None:
    """Six questions about each of 40 recordings, of which each layer gets some right by chance, and no layer is better:
    halves that share recordings would agree by that alone."""
    rng = np.random.default_rng(0)

    def share(given: Sequence[str], wanted: Sequence[str]) -> float:
        return 100 * float(np.mean([one == other for one, other in zip(given, wanted, strict=True)]))

    apart, together = list[float](), list[float]()
    for _ in range(10):
        said = {layer: [str(right) for right in rng.integers(2, size=40) for _ in range(6)] for layer in range(7)}
        for found, units in ((apart, np.arange(240) // 6), (together, np.arange(240))):
            found.append(_halves(share, said, ["1"] * 240, units) or 0.0)
    assert np.mean(together) > 0.4
    assert abs(np.mean(apart)) < 0.15
    assert _halves(share, {0: ["1", "0"], 1: ["0", "1"]}, ["1", "1"], np.zeros(2, int)) is None, "one recording"
