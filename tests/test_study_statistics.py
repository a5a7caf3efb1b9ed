"""Statistics of studies against known truths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastadasp.experiments.statistics import ROUNDS, Sample, difference, holm, rank


def sample(values: np.ndarray) -> Sample:
    """A sample of scores [seeds, clips] whose metric is their mean, on the bootstrap samples that tasks get."""
    clips = values.shape[1]
    chosen = np.random.default_rng(0).integers(clips, size=(ROUNDS, clips))
    return Sample(values.mean(axis=1), values[:, chosen].mean(axis=2), values)


def drawn(rng: np.random.Generator, clips: np.ndarray, seeds: int, spread: float, mean: float = 0.0) -> Sample:
    """Scores of clips with seeds that differ by `spread`, and noise of 1."""
    noise = rng.normal(0, 1, (seeds, len(clips))) + rng.normal(0, spread, (seeds, 1)) * (seeds > 1)
    return sample(mean + clips + noise)


@pytest.mark.parametrize(("clips", "seeds", "others"), [(10, 1, 1), (40, 1, 1), (40, 3, 1), (40, 3, 3), (40, 2, 3)])
def test_intervals_cover_the_truth(clips: int, seeds: int, others: int) -> None:
    """Nominal 95 %; the clips' own level, common to both, is far larger than their difference, so pairing counts."""
    rng, rounds, truth = np.random.default_rng(7), 300, 0.7
    covered = rejected = 0
    for _ in range(rounds):
        level = rng.normal(0, 5, clips)
        one, two = drawn(rng, level, seeds, 0.3, truth), drawn(rng, level, others, 0.3)
        gap = difference(one, two, higher_is_better=True)
        assert gap.interval is not None
        covered += gap.interval[0] <= truth <= gap.interval[1]
        rejected += difference(drawn(rng, level, seeds, 0.3), two, higher_is_better=True).p <= 0.05
    assert 0.91 <= covered / rounds <= 1.0
    assert rejected / rounds <= 0.09


def test_pairing_sees_what_unpaired_intervals_cannot() -> None:
    rng = np.random.default_rng(3)
    level = rng.normal(0, 5, 60)
    gap = difference(drawn(rng, level, 1, 0, 1.0), drawn(rng, level, 1, 0), higher_is_better=True)
    assert gap.interval is not None
    assert gap.interval[1] - gap.interval[0] < 1.5  # 4 sqrt(2 / 60) = 0.73; unpaired it would be 3.7
    assert gap.p < 0.001


def test_wins_ties_and_losses() -> None:
    one = sample(np.array([[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]]))  # the third clip: 0.5
    two = sample(np.array([[0.0, 1.0, 0.5, 1.0]]))
    gap = difference(one, two, higher_is_better=True)
    assert (gap.wins, gap.ties, gap.losses) == (1, 2, 1)
    assert gap.value == pytest.approx(0.625 - 0.625)
    turned = difference(one, two, higher_is_better=False)
    assert (turned.wins, turned.ties, turned.losses) == (1, 2, 1)
    better = difference(sample(np.zeros((1, 4))), two, higher_is_better=False)
    assert (better.wins, better.ties, better.losses) == (3, 1, 0)


def test_few_clips_that_agree_are_no_certainty() -> None:
    """Three clips, all better by the same: a sign test gives 2 (1/2)^3."""
    gap = difference(sample(np.ones((1, 3))), sample(np.zeros((1, 3))), higher_is_better=True)
    assert gap.p == pytest.approx(0.25)
    one = difference(sample(np.ones((1, 1))), sample(np.zeros((1, 1))), higher_is_better=True)
    assert (one.p, one.interval) == (1.0, None)
    same = difference(sample(np.ones((2, 5))), sample(np.ones((2, 5))), higher_is_better=True)
    assert (same.p, same.value, same.interval) == (1.0, 0.0, (0.0, 0.0))


def test_holm_by_hand() -> None:
    """0.005 x 4, 0.01 x 3, 0.03 x 2 = 0.06, and 0.04 x 1, which may not fall below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_procedure(p: list[float]) -> None:
    """Rejected at a: walking up the ordered probabilities while p (m - i) <= a."""
    adjusted = holm(p)
    for level in (0.01, 0.05, 0.2, 0.5):
        order = sorted(range(len(p)), key=lambda i: p[i])
        passed = [p[i] * (len(p) - step) <= level for step, i in enumerate(order)]
        rejected = {i for i, _ in itertools.takewhile(lambda pair: pair[1], zip(order, passed, strict=True))}
        assert rejected == {i for i, value in enumerate(adjusted) if value <= level}


def test_a_ranking_says_when_it_cannot_tell() -> None:
    rng = np.random.default_rng(11)
    level = rng.normal(0, 3, 80)
    alike = [drawn(rng, level, 1, 0) for _ in range(6)]
    assert rank(alike, higher_is_better=True) == [1] * 6
    apart = [drawn(rng, level, 1, 0, mean) for mean in (0, 3, 0, 6)]
    assert rank(apart, higher_is_better=True) == [3, 2, 3, 1]
    assert rank(apart, higher_is_better=False) == [1, 3, 1, 4]
    assert rank([], higher_is_better=True) == []


def test_a_ranking_of_equals_rarely_errs() -> None:
    """Eight equal strategies, 100 times: a rank of its own for any of them at most in 5 % (and what chance adds)."""
    rng, wrong = np.random.default_rng(5), 0
    for _ in range(100):
        level = rng.normal(0, 3, 40)
        wrong += set(rank([drawn(rng, level, 1, 0) for _ in range(8)], higher_is_better=True)) != {1}
    assert wrong <= 10
