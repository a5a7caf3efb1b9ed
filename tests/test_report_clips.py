"""Reports look clips up as the run asked them: in the same words, of the same part; statistics count the same units."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import run

from fastadasp import Task
from fastadasp.demo import model_path
from fastadasp.demo.task import NumbersTask
from fastadasp.experiments.axes import find_task
from fastadasp.experiments.records import Cell, Prediction
from fastadasp.experiments.statistics import FEWEST
from fastadasp.report.clips import Clip, clips_of
from fastadasp.report.lines import Line, _compare, lines_of
from fastadasp.report.report import make_report
from fastadasp.report.source import Source, key, read_source

PROMPT = "What number is that?"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of the other part, asked in other words."""
    folder = tmp_path_factory.mktemp("asked") / "run"
    words = ("--tasks", "asr", "--part", "choosing", "--prompt", PROMPT, "--limit", "2")
    code, told = run("compare", *words, "--strategies", "uniform", "--budgets", "0.5", "--output", str(folder))
    assert code == 0, told
    return folder


def found(source: Source, most: int = 9) -> list[Clip]:
    return clips_of(source, 0, lines_of(source, 0), most)


def with_arguments(source: Source, **arguments: Any) -> Source:
    about = source.about.model_copy(update={"arguments": source.about.arguments | arguments})
    return replace(source, about=about)


def test_clips_are_those_that_the_run_asked(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits, whole = [], NumbersTask.read
    monkeypatch.setattr(NumbersTask, "read", lambda task, limit=None: limits.append(limit) or whole(task, limit))
    clips = found(read_source(asked))
    assert [clip.missing for clip in clips] == ["", ""]
    assert [clip.example.instruction for clip in clips if clip.example] == [PROMPT] * 2
    assert limits == [2]  # not all that the task would join


def test_a_timeline_asks_what_was_measured(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = []
    from fastadasp.inference import clips as ready

    encode = ready.encode
    monkeypatch.setattr(
        ready, "encode", lambda loaded, made, sounds: words.append(made[0].instruction) or encode(loaded, made, sounds)
    )
    report = make_report([asked], clips=2, timelines=1, embedded=model_path())
    assert (words, len(report.timelines)) == ([PROMPT], 1)


def test_rows_that_cannot_be_used_hide_no_other(tmp_path: Path) -> None:
    examples = find_task("er").examples(2)
    with (tmp_path / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("id", "audio", "label"))
        rows.writerows((one.id, one.audio, one.reference) for one in examples)
        rows.writerow(("lost", "", "happy"))
    words = ("--tasks", f"er={tmp_path / 'list.csv'}", "--skip-bad", "--strategies", "uniform", "--budgets", "0.5")
    code, told = run("compare", *words, "--output", str(tmp_path / "run"))
    assert code == 0, told
    assert [clip.missing for clip in found(read_source(tmp_path / "run"))] == ["", ""]


def test_why_clips_are_missing_is_told(asked: Path) -> None:
    source = with_arguments(read_source(asked), part="another")
    assert all("a part of a task's clips is choosing or reporting" in clip.missing for clip in found(source))
    strange = with_arguments(source, part=["choosing"], prompt=7, limit={})
    assert len(found(strange)) == 2


class Same(Task):
    """How many answers are right."""

    name, kind, metric, higher_is_better, max_new_tokens = "same", "sparse", "same", True, 4

    def examples(self, limit: int | None = None) -> list[Any]:
        return []

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return {"same": 100 * sum(map(str.__eq__, predictions, references)) / len(references)}


@pytest.mark.parametrize(("units", "told"), [(FEWEST - 1, False), (FEWEST, True)])
def test_intervals_count_recordings_and_not_questions(units: int, told: bool) -> None:
    """Two questions about each recording are one unit, as in the run itself."""
    about = {"cell": "", "task": "same", "budget": None, "seed": 0}
    cell = Cell(strategy="full", **about, clips=2 * units, metrics={"same": 50.0}, efficiency=None)
    answers = []
    for i in range(2 * units):
        said = {"id": str(i), "audio": f"{i // 2}.wav", "reference": "a", "prediction": "ab"[i % 3 % 2]}
        answers.append(Prediction(strategy="full", **about, **said, tags={}))
    line = Line(0, "same", "full", {}, "-", "same", [cell], value=50.0)
    _compare([line], Same(), {key(cell): answers}, lambda: None)
    assert (line.interval is not None) == told
