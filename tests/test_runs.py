"""Runs in Python: made, read back, set against each other, shown in a notebook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ONE, audio_model, batch, strategy

import fastadasp
from fastadasp import RunError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[fastadasp.LoadedRun, fastadasp.LoadedRun]:
    folder = tmp_path_factory.mktemp("runs")
    common = {"tasks": ["er"], "budgets": [0.7], "limit": 24}
    first = fastadasp.compare(["uniform"], output=folder / "a", **common)
    second = fastadasp.compare(["uniform"], output=folder / "b", overrides={"layers.layer": 0}, **common)
    return first, second


def test_a_run_is_made_and_read_back(runs: tuple[fastadasp.LoadedRun, fastadasp.LoadedRun]) -> None:
    first = runs[0]
    assert first.status == "finished"
    full, uniform = fastadasp.load_run(first.folder).rows()
    assert (full["strategy"], full["budget_kind"], full["budget"]) == ("full", None, None)
    assert (uniform["strategy"], uniform["budget_kind"], uniform["budget"]) == ("uniform", "tokens", 0.7)
    assert uniform["difference"] == pytest.approx(uniform["value"] - full["value"])
    assert uniform["flops_removed"] > 0.3
    assert full.keys() == uniform.keys()


def test_a_data_frame_has_typed_columns(runs: tuple[fastadasp.LoadedRun, fastadasp.LoadedRun]) -> None:
    pytest.importorskip("pandas")
    frame = runs[0].to_dataframe()
    assert list(frame["strategy"]) == ["full", "uniform"]
    assert frame["value"].dtype == float
    assert frame["budget"].dtype == float


def test_runs_against_each_other(runs: tuple[fastadasp.LoadedRun, fastadasp.LoadedRun]) -> None:
    first, second = runs
    rows = first.against(second)
    assert [row["strategy"] for row in rows] == ["full", "uniform"]
    assert rows[0]["difference"] == 0
    assert (rows[0]["wins"], rows[0]["losses"], rows[0]["ties"]) == (0, 0, 24)
    assert rows[1]["difference"] == pytest.approx(first.rows()[1]["value"] - second.rows()[1]["value"])
    assert rows[1]["difference"] == -second.against(first)[1]["difference"]
    assert all(row["p_holm"] >= row["p"] for row in rows)


def test_notebooks_show_the_table(runs: tuple[fastadasp.LoadedRun, fastadasp.LoadedRun]) -> None:
    page = runs[0]._repr_html_()
    assert page.count("<tr>") == 3
    assert "uniform" in page


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not the folder of a run"):
        fastadasp.load_run(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"limit": "12"}, "limit is a number of clips or 'all', at least 1, not '12'"),
        ({"limit": 2.5}, "limit is a number of clips or 'all', at least 1, not 2.5"),
        ({"limit": True}, "limit is a number of clips or 'all', at least 1, not True"),
        ({"batch_size": 2.5}, "batch size is a number of clips, or auto, not 2.5"),
        ({"batch_size": None}, "batch size is a number of clips, or auto, not None"),
        ({"seeds": "3"}, "seeds is how many seeds a random strategy gets, at least 1, not '3'"),
        ({"tasks": "er"}, r"tasks is a list, e.g. \['er'\], not 'er'"),
        ({"budgets": 0.5}, r"budgets is a list, e.g. \[0.5\], not 0.5"),
        ({"overrides": "seed=1"}, "overrides is a table of field and value"),
        ({"prompt": 5}, "prompt is a text that every clip is asked, not 5"),
        ({"workers": 2}, "--workers needs --executor processes"),
    ],
)
def test_arguments_that_cannot_be(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"tasks": ["er"], "budgets": [0.5], "limit": 1, "output": tmp_path / "out", **wrong}
    with pytest.raises(RunError, match=message):
        fastadasp.compare(["uniform"], **given)
    assert not (tmp_path / "out").exists()


def test_a_trace_in_words() -> None:
    with torch.no_grad(), strategy("weighted").apply(audio_model()) as trace:
        assert "no prompt" in trace.summary()
        audio_model()(**batch(ONE))
    assert trace.summary().splitlines() == ["35 tokens enter the decoder", *trace.summary().splitlines()[1:]]
    assert "layer 1: 12 audio tokens left, 35 keys" in trace.summary()


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    notebook = json.loads((Path(__file__).parents[1] / "docs" / "first-steps.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["run"].status == names["early"].status == "finished"  # type: ignore[attr-defined]
