"""Intervals and tests count what was recorded independently, not rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import fastadasp
from fastadasp.contracts.task import Example, Task
from fastadasp.errors import DataError
from fastadasp.experiments.statistics import ROUNDS, Sample, difference, draw, interval, least_shown, number, unit_names
from fastadasp.tasks.manifest import ManifestTask


class Marks(Task):
    """A task whose metric is the share of right answers, with a tally or without."""

    name, kind, metric, higher_is_better, max_new_tokens = "marks", "sparse", "right", True, 1

    def __init__(self, tallies: bool) -> None:
        self.inner = ManifestTask("inner", None, kind="sparse", metric="accuracy", instruction="?")
        self.tallies = tallies

    def examples(self, limit: int | None = None) -> list[Example]:
        return []

    def tally(self, predictions, references):  # type: ignore[no-untyped-def]
        return self.inner.tally(predictions, references) if self.tallies else None

    def score(self, predictions, references):  # type: ignore[no-untyped-def]
        return {"right": self.inner.score(predictions, references)["accuracy"]}


def test_rows_of_one_recording_are_one_unit() -> None:
    """Each recording asked twice, with equal answers: the interval is that of the recordings alone."""
    rng = np.random.default_rng(1)
    right = rng.random(60) < 0.8
    answers, references = ["a" if good else "b" for good in right], ["a"] * 60
    for task in (Marks(True), Marks(False)):
        alone = draw(task, answers, references)
        twice = draw(task, answers * 2, references * 2, np.tile(np.arange(60), 2))
        assert alone == pytest.approx(twice)
        blind = draw(task, answers * 2, references * 2)
        assert np.std(blind) < 0.8 * np.std(alone)  # as rows it would look surer by the root of two


@pytest.mark.parametrize(("units", "each"), [(30, 4), (25, 8)])
def test_intervals_of_clustered_clips_cover_the_truth(units: int, each: int) -> None:
    """Differences that all clips of a unit share; intervals over rows are far too narrow for them."""
    rng, rounds, truth = np.random.default_rng(5), 200, 0.5
    names = np.repeat(np.arange(units), each)

    def sample(values: np.ndarray, of: np.ndarray | None) -> Sample:
        groups = np.arange(len(values)) if of is None else of
        sums = np.bincount(groups, values)
        sizes = np.bincount(groups).astype(float)
        chosen = np.random.default_rng(0).integers(len(sums), size=(ROUNDS, len(sums)))
        drawn = sums[chosen].sum(1) / sizes[chosen].sum(1)
        return Sample(np.array([values.mean()]), drawn[None], values[None], of)

    covered = blind = 0
    for _ in range(rounds):
        shared = np.repeat(rng.normal(truth, 1, units), each)
        one, two = shared + rng.normal(0, 0.3, units * each), rng.normal(0, 0.3, units * each)
        for of in (names, None):
            gap = difference(sample(one, of), sample(two, of), higher_is_better=True)
            assert gap.interval is not None
            inside = gap.interval[0] <= truth <= gap.interval[1]
            covered, blind = covered + (inside and of is not None), blind + (inside and of is None)
    assert covered / rounds >= 0.91
    assert blind / rounds <= 0.8


def test_the_least_difference_that_shows_is_found_in_four_of_five_tests() -> None:
    rng, rounds, clips, found = np.random.default_rng(11), 400, 200, 0
    chosen = np.random.default_rng(0).integers(clips, size=(ROUNDS, clips))

    def sample(values: np.ndarray) -> Sample:
        return Sample(np.array([values.mean()]), values[chosen].mean(1)[None], values[None])

    zero, said = sample(np.zeros(clips)), []
    for _ in range(20):
        gap = difference(sample(rng.normal(0, 1, clips)), zero, higher_is_better=True)
        assert gap.interval is not None
        said.append(least_shown(gap.interval))
    least = float(np.mean(said))
    assert least == pytest.approx(2.8 / clips**0.5, rel=0.05)
    for _ in range(rounds):
        gap = difference(sample(rng.normal(least, 1, clips)), zero, higher_is_better=True)
        found += gap.p <= 0.05
    assert 0.7 <= found / rounds <= 0.9


def test_few_units_have_no_interval() -> None:
    assert interval(np.arange(10.0), 19) is None
    assert interval(np.arange(10.0), 20) is not None


def test_units_are_recordings_unless_the_task_names_a_column() -> None:
    def example(audio: str, **tags: str) -> Example:
        return Example(id="x", audio=Path(audio), instruction="?", reference="a", tags=tags)

    examples = [example("a/1.wav", speaker="p"), example("b/1.wav", speaker="q"), example("b/1.wav", speaker="p")]
    task = Marks(True)
    assert number(unit_names(task, examples)).tolist() == [0, 1, 1]
    task.unit = "speaker"
    assert number(unit_names(task, examples)).tolist() == [0, 1, 0]


def test_a_task_file_names_its_unit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for clip in range(4):
        soundfile.write(tmp_path / f"{clip}.wav", rng.normal(0, 0.1, 16_000), 16_000)
        rows.append({"audio_filepath": f"{clip}.wav", "reference": "happy", "speaker": f"s{clip % 2}"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = 'name = "mine"\nkind = "sparse"\nmetric = "accuracy"\ninstruction = "Which emotion?"\ndata = "rows.jsonl"\n'
    (tmp_path / "mine.toml").write_text(text + 'unit = "speaker"\n')
    run = fastadasp.compare(
        ["uniform"], output=tmp_path / "run", tasks=[str(tmp_path / "mine.toml")], budgets=[0.5], limit=None
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert {line["unit"] for line in lines} == {"s0", "s1"}
    assert len(run.rows()) == 2
    (tmp_path / "mine.toml").write_text(text + 'unit = "nobody"\n')
    with pytest.raises(DataError, match="no column 'nobody'"):
        fastadasp.compare(["uniform"], output=tmp_path / "other", tasks=[str(tmp_path / "mine.toml")], budgets=[0.5])
