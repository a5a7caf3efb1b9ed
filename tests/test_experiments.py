"""What a comparison has because it is a study: it goes on after a kill and runs on Ray; folders of earlier versions."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import run

import fastadasp
from fastadasp import RunError
from fastadasp.experiments.records import Result
from fastadasp.experiments.store import Store
from fastadasp.report.source import read_source

OLD = Path(__file__).parent / "fixtures" / "runs-0.1.0"
FEW = ("--tasks", "er", "--limit", "2", "--budgets", "0.5", "--strategies", "weighted,random", "--seeds", "2")
SAME = ("results.jsonl", "predictions.jsonl", "statistics.jsonl", "table.md")
RAY = importlib.util.find_spec("ray") is not None


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, told = run("compare", *FEW, "--output", str(folder))
    assert code == 0, told
    assert "4 cells take about " in told
    return folder


def test_a_killed_comparison_goes_on_to_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastadasp", "compare", *FEW, "--output", "run"]
    kept = 0
    for _ in range(2):
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            end = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < end:
                done = len(list((tmp_path / "run").glob("store/cells/*/*.json")))
                if done > kept and (tmp_path / "run" / "results.jsonl").exists():
                    break
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        kept = len(list((tmp_path / "run").glob("store/cells/*/*.json")))
    cells = {path: path.read_bytes() for path in (tmp_path / "run").glob("store/cells/*/*.json")}
    assert 0 < len(cells) < 4
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "running"
    assert fastadasp.load_run(tmp_path / "run").status == "running"  # what is finished can be read
    code, told = run("compare", *FEW, "--output", str(tmp_path / "run"))
    assert code == 0, told
    assert f"{len(cells)} of 4 cells are done; the others take about " in told
    assert all(path.read_bytes() == content for path, content in cells.items())
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes(), name
    # once more: nothing is left to do
    assert "all 4 cells are done" in run("compare", *FEW, "--output", str(tmp_path / "run"))[1]


@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_a_comparison_by_two_workers_has_the_same_bytes(whole: Path, tmp_path: Path, executor: str) -> None:
    if executor == "ray" and not RAY:
        pytest.skip("Ray is not installed: pip install 'fastadasp[ray]'")
    code, told = run("compare", *FEW, "--output", str(tmp_path / "run"), "--executor", executor, "--workers", "2")
    assert code == 0, told
    assert "4 cells take about " in told
    assert " by 2 workers" in told
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes(), name


def test_other_arguments_are_refused_and_a_baseline_is_none(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    code, told = run("compare", *FEW, "--seed", "7", "--output", str(folder))
    assert (code, "already holds a run of other arguments (changed: seed)" in told) == (2, True)
    code, told = run("ablate", "--tasks", "er", "--limit", "2", "--output", str(folder))
    assert (code, "it was made by fastadasp compare" in told) == (2, True)
    code, told = run("compare", *FEW, "--baseline", "weighted", "--output", str(folder))
    assert code == 0, told
    found = {line["strategy"]: line["baseline"] for line in lines(folder / "statistics.jsonl")}
    assert found == {"full": None, "weighted": None, "random": "weighted budgets=0.5"}
    code, told = run("compare", *FEW, "--baseline", "wieghted")
    assert (code, "Did you mean 'weighted'?" in told) == (2, True)


def test_what_a_full_disk_left_is_no_run(tmp_path: Path) -> None:
    for name in ("results.jsonl", "predictions.jsonl", "run.json"):
        (tmp_path / name).write_text("")
    code, told = run("compare", *FEW, "--output", str(tmp_path))
    assert code == 0, told
    assert len(lines(tmp_path / "results.jsonl")) == 4


def test_json_has_what_may_be_said_of_each_line(whole: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    folder = shutil.copytree(whole, tmp_path / "run")
    saved, sys.argv = sys.argv, ["fastadasp", "compare", *FEW, "--output", str(folder), "--json"]
    from fastadasp.cli.app import app

    try:
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as stop:
            app()
    finally:
        sys.argv = saved
    assert not stop.value.code
    cells = json.loads(out.getvalue())
    assert [cell["strategy"] for cell in cells] == ["full", "weighted", "random", "random"]
    assert all(cell["efficiency"]["prefill_seconds"] > 0 for cell in cells)
    assert [cell["baseline"] for cell in cells] == [None, "full", "full", "full"]
    assert [cell["difference_interval"] for cell in cells] == [None] * 4  # of two clips


def test_strategies_of_equal_content_are_two_lines_of_one_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadasp.inference import runner

    for name in ("one", "other"):
        recipe = fastadasp.load_strategy("weighted").replace(name=name)
        (tmp_path / f"{name}.toml").write_text(recipe.to_toml())
    ran: list[int] = []
    real = runner.run_cell

    def counted(*args: Any, **kwargs: Any) -> Any:
        ran.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(runner, "run_cell", counted)
    names = [str(tmp_path / "one.toml"), str(tmp_path / "other.toml")]
    found = fastadasp.compare(names, output=tmp_path / "run", tasks=["er"], limit=2, budgets=[0.5])
    assert len(ran) == 2
    assert [line.strategy for line in found.lines] == ["full", "one", "other"]
    assert found.lines[1].value == found.lines[2].value
    assert [len(found.source.predictions[key]) for key in found.source.predictions] == [2, 2, 2]


# Folders of version 0.1.0


def test_an_old_comparison_is_read() -> None:
    found = fastadasp.load_run(OLD / "comparison")
    assert (found.status, found.source.about.command) == ("finished", "compare")
    assert [(row["strategy"], row["budget"], row["seeds"]) for row in found.rows()] == [
        ("full", None, 1), ("weighted", 0.5, 1), ("random", 0.5, 2)
    ]  # fmt: skip
    stored = lines(OLD / "comparison" / "results.jsonl")
    by_name = {line.name: line for line in found.lines}
    assert by_name["weighted"].prefill_seconds == stored[1]["efficiency"]["prefill_seconds"]
    assert by_name["full"].value == stored[0]["metrics"]["accuracy"]
    assert by_name["random"].cost("flops_removed") == pytest.approx(
        sum(cell["efficiency"]["flops_removed"] for cell in stored[2:]) / 2
    )
    source = read_source(OLD / "comparison")
    assert sum(map(len, source.predictions.values())) == len(lines(OLD / "comparison" / "predictions.jsonl"))


def test_an_old_study_is_read() -> None:
    found = fastadasp.load_run(OLD / "study")
    assert (found.status, found.source.about.command) == ("finished", "ablate")
    assert [line.name for line in found.lines] == [
        "full", "weighted (weight=none, merger=runs)", "weighted (weight=none, merger=pairs)"
    ]  # fmt: skip
    stored = lines(OLD / "study" / "statistics.jsonl")
    assert [line.value for line in found.lines] == [line["value"] for line in stored]
    times = lines(OLD / "study" / "times.jsonl")
    assert [line.prefill_seconds for line in found.lines] == [line["prefill_seconds"] for line in times]


@pytest.mark.parametrize("kind", ["comparison", "study"])
def test_old_folders_are_reported_and_not_gone_on_with(kind: str, tmp_path: Path) -> None:
    folder = shutil.copytree(OLD / kind, tmp_path / "run")
    code, told = run("report", str(folder), "--clips", "0", "--timelines", "0", "--output", str(tmp_path / "r.csv"))
    assert code == 0, told
    assert (tmp_path / "r.csv").read_text().count("\n") == 4
    code, told = run("compare" if kind == "comparison" else "ablate", "--tasks", "er", "--output", str(folder))
    assert (code, "already holds a run" in told) == (2, True)


def test_a_new_run_against_an_old_one(whole: Path) -> None:
    """The old one is of version 0.1, whose weights were others."""
    rows = fastadasp.load_run(whole).against(fastadasp.load_run(OLD / "comparison"))
    assert [row["strategy"] for row in rows] == ["full", "weighted", "random"]
    assert [row["other"] for row in rows] == [100, 100, 75]
    assert [row["difference"] for row in rows] == [row["value"] - row["other"] for row in rows]
    assert rows[0]["low"] is None


# Studies


def test_a_preset_and_a_page_for_a_study(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- compare-table -->\n<!-- end -->\n")
    few = ("--preset", "paper-sparse", "--tasks", "er", "--strategies", "weighted", "--limit", "2")
    options = ("--budgets", "flops=0.3", "--merger", "runs,pairs", "--weight", "none", "--store", str(tmp_path / "s"))
    code, told = run("ablate", *few, *options, "--insert", str(page), "--output", str(tmp_path / "out"))
    assert code == 0, told
    assert "| weighted | pairs | flops=0.3 |" in page.read_text()
    assert "not ours" in (tmp_path / "out" / "table.md").read_text()


def test_a_preset_says_what_is_run(tmp_path: Path) -> None:
    code, told = run(
        "compare", "--preset", "paper-dense", "--tasks", "er", "--limit", "1", "--budgets", "0.5", "--strategies",
        "prune", "--output", str(tmp_path / "run"),
    )  # fmt: skip
    assert code == 0, told
    assert "preset paper-dense runs for the paper's FastV: prune" in told


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
@pytest.mark.parametrize("command", ["compare", "ablate"])
def test_a_pipe_is_no_page(command: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "page.md")
    code, told = run(command, "--tasks", "er", "--insert", str(tmp_path / "page.md"))
    assert (code, "it is no ordinary file" in told) == (2, True)


@pytest.mark.parametrize("option", ["--force", "--retry-failed"])
def test_cells_from_the_future_are_run_again(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that was set back, or that of another machine, keeps nothing from being run once more, and once only."""
    few = ("--tasks", "er", "--limit", "2", "--store", str(tmp_path / "store"), "--output", str(tmp_path / "out"))
    assert run("ablate", *few)[0] == 0
    store = Store(tmp_path / "store", print)
    for path in (tmp_path / "store" / "cells").glob("*/*.json"):
        old = store.get(path.stem)
        assert old is not None
        late = {**old.model_dump(), "started": time.time() + 1e8, "error": "RuntimeError: of another day"}
        store.put(Result(**late))
    code, told = run("ablate", *few, option)
    assert code == 0, told
    assert all(line["error"] is None for line in lines(tmp_path / "out" / "results.jsonl"))


def test_a_stored_cell_keeps_the_order_of_its_metrics(whole: Path) -> None:
    ran = lines(whole / "results.jsonl")[0]
    store = Store(whole / "store", print)
    kept = store.get(ran["cell"])
    assert kept is not None
    assert list(kept.metrics) == list(ran["metrics"]) != sorted(ran["metrics"], reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--seeds", "1000000000"], "1000000000 seeds are too many"),
        (["compare", "--strategies", "x" * 100_000], "unknown strategy 'xxx"),
        (["ablate", "--seeds", "9" * 5000], "a seed is a whole number"),
        (["ablate", "--strategies", "x" * 100_000], "unknown strategy 'xxx"),
    ],
)
def test_huge_input_is_a_short_message(arguments: list[str], message: str) -> None:
    code, told = run(*arguments, "--tasks", "er")
    assert (code, message in told) == (2, True)
    assert len(told) < 3000


def test_python_goes_on_too(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    common: dict[str, Any] = {"tasks": ["er"], "limit": 2, "budgets": [0.5], "seeds": 2}
    with pytest.raises(RunError, match="changed: strategies"):
        fastadasp.compare(["weighted"], output=folder, **common)
    assert fastadasp.compare(["weighted", "random"], output=tmp_path / "new", **common).status == "finished"
