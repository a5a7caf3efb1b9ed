"""Lines of a table: seeds, intervals, overviews, and the pages they are put into. No model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_cases import FACTS

from fastadasp import RunError, Task
from fastadasp.contracts.task import Example
from fastadasp.counts.budget import KINDS, Budget
from fastadasp.experiments.axes import Row
from fastadasp.experiments.combinations import Grid, Point, make_grid, recipes
from fastadasp.experiments.comparison import comparison
from fastadasp.experiments.drive import Finished
from fastadasp.experiments.pages import COUNTED, check_page, insert, overviews
from fastadasp.experiments.records import Result
from fastadasp.experiments.spec import make_spec
from fastadasp.experiments.standings import Entry, standings
from fastadasp.experiments.statistics import draw, interval
from fastadasp.experiments.tables import COMPARISON, Heading
from fastadasp.inference.costs import Efficiency
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


def result(value: float | None, **changes: float | str) -> Result:
    """A cell that scored `value` of 100: as many of its answers are right."""
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
    right = 0 if value is None else round(value * CLIPS / 100)
    return Result(
        cell="",
        identity={},
        layer=1,
        metrics={} if value is None else {"same": 100 * right / CLIPS},
        interval=None,
        efficiency=None if value is None else Efficiency(**values | changes),
        answers=[] if value is None else ["a"] * right + ["b"] * (CLIPS - right),
        error="StrategyError: no" if value is None else None,
        started=0,
        seconds=1,
        host="",
        process=1,
        device_name="",
    )


CLIPS = 100
Cells = Sequence[tuple[str, str | None, int, Result]]


def entries(cells: Cells, task: Task | None = None) -> list[Entry]:
    """The lines of cells, each named by strategy, budget and seed."""
    points, results = [], {}
    for place, (name, budget, seed, found) in enumerate(cells):
        labels = {} if budget is None else {"strategies": name, "budgets": budget}
        row = Row(name, None, None if budget is None else Budget.of(budget), seed)
        points.append(Point("letters", labels, row, str(place)))
        results[str(place)] = found
    examples = [Example(str(i), Path(f"{i}.wav"), "?", "a") for i in range(CLIPS)]
    spec = make_spec({}, {"tasks": ["er"], "strategies": ["weighted"], "budgets": [0.5], "seeds": [0]})
    finished = Finished(Grid(points, [], 0), results)
    return standings(spec, finished, {"letters": task or Letters()}, {"letters": examples})["letters"]


HEADING = Heading(Letters(), CLIPS, CLIPS, "the full model")


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
    full, chance = entries(
        [("full", None, 0, result(80)), *(("chance", "0.5", seed, result(60 + 10 * seed)) for seed in range(3))]
    )
    assert (chance.standing.value, len(chance.standing.seeds), len(chance.costs)) == (70, 3, 3)
    low, high = chance.standing.interval or (0, 0)
    assert low < 60 < 80 < high  # clips and seeds both vary
    row = COMPARISON.row(chance, HEADING.names)
    assert (row[2], row[4]) == ("70.0", "-10.0")
    assert COMPARISON.row(full, HEADING.names)[4] == ""


def test_what_cannot_be_told_apart_is_marked() -> None:
    cells = [("full", None, 0, result(80)), ("near", "0.5", 0, result(78)), ("far", "0.5", 0, result(30))]
    _, near, far = (COMPARISON.row(entry, HEADING.names) for entry in entries(cells))
    place = COMPARISON.header(HEADING).index("verdict")
    assert (near[place], far[place]) == ("n.d.", "<0.001")
    assert "n.d.: not distinguishable" in COMPARISON.note(HEADING, entries(cells))


def test_a_line_of_failures() -> None:
    (line,) = entries([("chance", "0.5", 0, result(None))])
    assert (line.standing.value, line.standing.interval) == (None, None)
    assert COMPARISON.row(line, HEADING.names)[2] == "failed"


def test_only_random_strategies_get_several_seeds() -> None:
    spec = comparison(["random", "weighted"], ["0.5"], ["er"], seed=5, seeds=3)
    grid = make_grid(spec, FACTS)
    assert [(point.row.name, point.row.seed) for point in grid.points] == [
        ("full", 0), ("random", 5), ("random", 6), ("random", 7), ("weighted", 0)
    ]  # fmt: skip
    assert [point.row.strategy.seed for point in grid.points if point.row.name == "random"] == [5, 6, 7]
    fixed = comparison(["random"], ["0.5"], ["er"], seed=5, seeds=2, overrides={"seed": 6})
    assert list(fixed.axes["seeds"]) == ["6", "7"]
    with pytest.raises(RunError, match="seeds is how many seeds a random strategy gets, at least 1, not 0"):
        comparison(["random"], ["0.5"], ["er"], seeds=0)
    with pytest.raises(RunError, match="1000000000 seeds are too many"):
        comparison(["random"], ["0.5"], ["er"], seeds=1_000_000_000)


def test_all_strategies_each_content_once() -> None:
    made = [recipe for _, recipe in recipes(comparison(["all"], ["flops=0.3"], ["er"]))[0]]
    names = [recipe.name for recipe in made]
    installed = [entry.name for entry in get_registry().entries("strategy")]
    assert {"weighted", "random", "attention-prune", "h2o"} <= set(names) < set(installed)
    assert not {"random-merge", "prune"} & set(names)
    budgets = {recipe.name: str(recipe.budget) for recipe in made}
    assert (budgets["h2o"], budgets["weighted+h2o"]) == ("kv=0.3", "flops=0.3")


def test_an_overview_says_what_was_removed_and_what_failed(tmp_path: Path) -> None:
    cells = [
        ("full", None, 0, result(100)),
        ("one", "flops=0.3", 0, result(0)),
        ("one", "flops=0.5", 0, result(0, flops_removed=0.4)),
        ("two", "kv=0.3", 0, result(0, kv_removed=0.3)),
        ("two", "kv=0.5", 0, result(None)),
    ]
    text = overviews([(HEADING, entries(cells))])
    assert "| strategy | flops -30% | flops -50% |" in text
    assert "| one | 0.0 | 0.0 [40%] |" in text
    assert "| two | kv: 0.0 | kv: - |" in text
    assert "full model 100.0" in text
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- compare-overview -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    for _ in range(2):
        insert(page, COMPARISON, [(HEADING, entries(cells))])
        filled = page.read_text(encoding="utf-8")
        assert filled == f"before\n<!-- compare-overview -->\n\n{text}\n<!-- end -->\nafter\n"


def test_an_overview_names_every_kind_of_budget_but_the_first() -> None:
    cells = [("full", None, 0, result(100)), ("one", 0.5, 0, result(80)), ("one", "flops=0.5", 0, result(60))]
    text = overviews([(HEADING, entries([*cells, ("one", "kv=0.5", 0, result(40, kv_removed=0.5))]))])
    assert "| strategy | tokens -50% |" in text
    assert "| one | 80.0 (72.0 to 88.0); flops: 60.0 (51.0 to 69.0) [30%]; kv: 40.0 (31.0 to 49.0) |" in text
    assert "; flops: this fraction of the decoder's prefill FLOPs; kv: this fraction of the KV bytes; [" in text
    assert set(COUNTED) == set(KINDS)


def test_an_overview_of_changes_in_a_presets_own_place(tmp_path: Path) -> None:
    made = entries([("full", None, 0, result(80)), ("one", "kv=0.3", 0, result(60)), ("two", "kv=0.4", 0, result(80))])
    lines = [
        one.standing.model_copy(update={"difference": d, "difference_interval": span, "p_holm": p})
        for one, d, span, p in zip(
            made, (None, -20.0, 0.0), (None, (-24.0, -16.0), (-1.0, 1.0)), (None, 0.01, 1.0), strict=True
        )
    ]
    made = [replace(one, standing=line) for one, line in zip(made, lines, strict=True)]
    text = overviews([(HEADING, made)], changes=True)
    assert "| strategy | kv -30% | kv -40% |" in text
    assert "| one | **60.0 (-20.0, -24.0 to -16.0)** [40%] |  |" in text
    assert "| two |  | 80.0 (+0.0, -1.0 to 1.0) |" in text
    assert "bold: distinguishable" in text
    assert "[..]: what was removed" in text
    page, marks = tmp_path / "page.md", ("<!-- compare-changes a -->", "<!-- compare-changes b -->")
    page.write_text("".join(f"{mark}\nold\n<!-- end -->\n" for mark in marks), encoding="utf-8")
    check_page(page, "b")
    insert(page, COMPARISON, [(HEADING, made)], "b")
    assert page.read_text() == f"{marks[0]}\nold\n<!-- end -->\n{marks[1]}\n\n{text}\n<!-- end -->\n"
    with pytest.raises(RunError, match="no place"):
        check_page(page, "c")
    named = Path(f"{page}#a")
    insert(named, COMPARISON, [(HEADING, made)], "b")  # the name in the page's address comes before the preset's
    assert page.read_text().count(text) == 2
    page.write_text(f"{page.read_text()}<!-- compare-table -->\n<!-- end -->\n")
    with pytest.raises(RunError, match=r"write <!-- compare-table c --> or <!-- compare-overview c -->"):
        check_page(Path(f"{page}#c"), "b")


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
