"""The tool that chooses a layer selector on one half of the tasks and reports it on the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastadasp import RunError
from fastadasp.experiments.sweep import Estimate, Sweep
from tools import sweeps


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
    page = sweeps.report(found, "k=4 name=s")
    assert "3 of 4 sweeps tell layers apart" in page
    forth, back = sweeps.HALVES
    there, here = ", ".join(forth), ", ".join(back)
    assert f"| {there} | {here} | 2 | k=3 name=s | 0.20 | 1 of 2 | 2.0 |" in page
    assert f"| {there} | {here} | 2 | k=4 name=s (the default) | 0.70 | 2 of 2 | 0.2 |" in page
    assert f"| {here} | {there} | 1 | k=4 name=s (the default) | 0.20 | 0 of 1 | 2.0 |" in page


def test_halves_without_a_clear_sweep_say_so() -> None:
    assert "| 0 | too few clear sweeps |" in sweeps.report([swept("asr", 0.9, estimate(3, 0.9, 0.0))], "k=4 name=s")


def test_a_file_that_is_no_sweep(tmp_path: Path) -> None:
    file = tmp_path / "asr.json"
    file.write_text(json.dumps([swept("asr", 0.9, estimate(3, 0.9, 0.0)).model_dump(mode="json")]))
    assert sweeps.read(file).task == "asr"
    file.write_text("[]")
    with pytest.raises(RunError, match="holds no sweep"):
        sweeps.read(file)


def test_tasks_that_share_recordings_are_in_one_half() -> None:
    first, second = sweeps.HALVES
    assert not set(first) & set(second)
    assert {"asr", "st"} <= set(first)
    assert "form=" in sweeps.default_selector()
