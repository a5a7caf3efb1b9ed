"""Lines of a table: seeds, intervals, overviews, and the pages they are put into. No model runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastadasp import RunError, Task
from fastadasp.experiments.grid import make_grid
from fastadasp.experiments.lines import draw, interval, lines
from fastadasp.experiments.records import Cell, Efficiency
from fastadasp.experiments.report import check_page, insert, overviews
from fastadasp.experiments.table import rows
from fastadasp.strategy import get_registry
from fastadasp.tasks.manifest import METRICS
from fastadasp.tasks.normalisers import NORMALISERS

WORDS = st.lists(st.sampled_from(["one", "two", "three", "four"]), min_size=1, max_size=8).map(" ".join)


class Letters(Task):
    """A task whose metric has no tally."""

    name, kind, metric, higher_is_better, max_new_tokens = "letters", "sparse", "same", True, 4

    def examples(self, limit: int | None = None) -> list[Any]:
        return []

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return {"same": 100 * float(np.mean([p == r for p, r in zip(predictions, references, strict=True)]))}


def cost(**changes: float) -> Efficiency:
    values: dict[str, Any] = {
        "audio_tokens": 100,
        "audio_tokens_left": 50,
        "audio_tokens_removed": 0.5,
        "kv_bytes": 1000,
        "kv_removed": 0.4,
        "flops": 10,
        "flops_removed": 0.3,
        "encoder_flops": None,
        "flops_removed_with_encoder": None,
        "prefill_seconds": 0.1,
        "decode_seconds": 0.2,
        "new_tokens": 3,
        "batch_size": 4,
    }
    return Efficiency(**values | changes)


def cell(strategy: str, budget: str | None, value: float | None, seed: int = 0, **changes: float) -> Cell:
    return Cell(
        strategy=strategy,
        task="letters",
        budget=budget,
        seed=seed,
        clips=40,
        metrics={} if value is None else {"same": value},
        efficiency=None if value is None else cost(**changes),
        error="StrategyError: no" if value is None else None,
    )


@pytest.mark.parametrize("metric", [name for name, metric in METRICS.items() if metric.tally])
@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6))
def test_tallies_add_up_to_the_metric(metric: str, pairs: list[tuple[str, str]]) -> None:
    guesses, truths = [p for p, _ in pairs], [r for _, r in pairs]
    normaliser, count = NORMALISERS[METRICS[metric].normaliser], METRICS[metric].tally
    assert count is not None
    tally = count(guesses, truths, normaliser)
    assert len(tally.counts) == len(pairs)
    assert tally.total(tally.counts.sum(0)) == pytest.approx(METRICS[metric].score(guesses, truths, normaliser)[metric])


def test_intervals_are_those_of_a_binomial() -> None:
    """70 of 100 right: the bootstrap's spread is sqrt(0.7 0.3 / 100), with a tally or without."""
    truths = ["a"] * 100
    guesses = ["a"] * 70 + ["b"] * 30
    low, high = interval(draw(Letters(), guesses, truths), 100) or (0, 0)
    assert low == pytest.approx(70 - 1.96 * 4.58, abs=2)
    assert high == pytest.approx(70 + 1.96 * 4.58, abs=2)
    asked = get_registry().get("task", "er")
    assert interval(draw(asked, guesses, truths), 100) == (low, high)


def test_seeds_are_one_line_with_their_mean() -> None:
    cells = [cell("full", None, 80), *(cell("chance", "0.5", 60 + 10 * seed, seed) for seed in range(3))]
    spread = np.linspace(-1, 1, 1000)
    draws = [80 + spread, *(60.0 + 10 * seed + spread for seed in range(3))]
    full, chance = lines(Letters(), cells, draws)
    assert (chance.value, len(chance.cells)) == (70, 3)
    assert chance.interval == pytest.approx((70 - 0.95, 70 + 0.95))
    assert rows([full, chance])[1][2:5] == ("70.0", "69.0 to 71.0", "-10.0")


def test_a_line_of_failures() -> None:
    (line,) = lines(Letters(), [cell("chance", "0.5", None)], [None])
    assert (line.value, line.interval) == (None, None)
    assert rows([line])[0][2] == "failed"


def test_only_random_strategies_get_several_seeds() -> None:
    grid = make_grid(["weighted", "random"], ["0.5"], ["er"], overrides={}, seed=5, limit=1, seeds=3)
    drawn = [(row.name, row.seed, row.strategy.seed if row.strategy else None) for row in grid.rows]
    assert drawn == [("full", 5, None), ("weighted", 5, 5), ("random", 5, 5), ("random", 6, 6), ("random", 7, 7)]
    with pytest.raises(RunError, match="seeds is how many seeds a random strategy gets, at least 1, not 0"):
        make_grid(["random"], ["0.5"], ["er"], overrides={}, seed=0, limit=1, seeds=0)


def test_all_strategies_each_content_once() -> None:
    grid = make_grid(["all"], ["flops=0.3"], ["er"], overrides={}, seed=0, limit=1)
    names = list(grid.strategies)
    installed = [entry.name for entry in get_registry().entries("strategy")]
    assert {"weighted", "random", "attention-prune", "h2o"} <= set(names) < set(installed)
    assert not {"random-merge", "prune"} & set(names)
    budgets = {row.name: str(row.budget) for row in grid.rows if row.budget is not None}
    assert (budgets["h2o"], budgets["weighted+h2o"]) == ("kv=0.3", "flops=0.3")


def test_an_overview_says_what_was_removed_and_what_failed(tmp_path: Path) -> None:
    cells = [
        cell("full", None, 80),
        cell("one", "flops=0.3", 70),
        cell("one", "flops=0.5", 60, flops_removed=0.4),
        cell("two", "kv=0.3", 50),
        cell("two", "kv=0.5", None),
    ]
    text = overviews([(Letters(), lines(Letters(), cells, [None] * 5))])
    assert "| strategy | flops -30% | flops -50% |" in text
    assert "| one | 70.0 | 60.0 [40%] |" in text
    assert "| two | kv: 50.0 | kv: - |" in text
    assert "full model 80.0" in text
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- compare-overview -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    for _ in range(2):
        insert(page, [(Letters(), lines(Letters(), cells, [None] * 5))])
        filled = page.read_text(encoding="utf-8")
        assert filled == f"before\n<!-- compare-overview -->\n\n{text}\n<!-- end -->\nafter\n"


def test_pages_without_a_place(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing here\n")
    with pytest.raises(RunError, match="has no place for results: write <!-- compare-table -->"):
        check_page(tmp_path / "page.md")
    with pytest.raises(RunError, match="cannot be read"):
        check_page(tmp_path / "missing.md")


def test_few_clips_and_clips_that_agree_have_no_interval() -> None:
    truths = ["a"] * 100
    assert interval(draw(Letters(), ["a"] * 70 + ["b"] * 30, truths), 19) is None
    assert interval(draw(Letters(), truths, truths), 100) is None
