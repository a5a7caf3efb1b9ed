"""`fastadasp ablate` on the embedded model: its files, what it finds again, kills, executors, wrong input."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import random
from pathlib import Path
from typing import Any, ClassVar

import kill_study
import pytest
from command import run_whole

import fastadasp
from fastadasp import Scorer, hookimpl
from fastadasp.experiments.records import Cell, Prediction, Run, Standing, Times


def ablate(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a study in `folder`, without the start of another process."""
    with contextlib.chdir(folder):
        return run_whole("ablate", *arguments)


RAY = importlib.util.find_spec("ray") is not None

FEW = ("--tasks", "er", "--limit", "2", "--store", "store", "--merger", "runs,pairs,drop", "--weight", "none")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def runs_counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the strategies that really run from now on."""
    from fastadasp.inference import runner

    ran: list[str] = []
    real = runner.run_cell

    def counted(loaded: Any, strategy: Any, *args: Any, **kwargs: Any) -> Any:
        ran.append("full" if strategy is None else strategy.merger.name)
        return real(loaded, strategy, *args, **kwargs)

    monkeypatch.setattr(runner, "run_cell", counted)
    return ran


def test_a_study_writes_what_it_says_and_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = runs_counted(monkeypatch)
    code, out, told = ablate(tmp_path, *FEW, "--output", "one")
    assert code == 0, told
    assert ran == ["full", "runs", "pairs"]
    assert "win/tie/loss" in out
    assert "at 0.5: the 2 recipes are not distinguishable" in out
    assert "1 cells were refused" in told
    one = tmp_path / "one"
    cells = [Cell.model_validate(line) for line in lines(one / "results.jsonl")]
    assert [(c.strategy, c.axes.get("merger"), c.budget) for c in cells] == [
        ("full", None, None), ("weighted", "runs", 0.5), ("weighted", "pairs", 0.5)
    ]  # fmt: skip
    assert all("seconds" not in key for cell in cells for key in cell.efficiency or {})
    answers = [Prediction.model_validate(line) for line in lines(one / "predictions.jsonl")]
    assert [a.cell for a in answers] == [cell.cell for cell in cells for _ in range(2)]
    assert [Times.model_validate(line).cell for line in lines(one / "times.jsonl")] == [cell.cell for cell in cells]
    standings = [Standing.model_validate(line) for line in lines(one / "statistics.jsonl")]
    assert [line.baseline for line in standings] == [None, "full", "full"]
    record = Run.model_validate_json((one / "run.json").read_text())
    assert (record.status, record.cells, record.done, record.failed) == ("finished", 3, 3, 0)
    assert "reads importance" in record.refused[0].reason

    # another folder: nothing runs, the bytes are the same, and a dry run knows
    assert ablate(tmp_path, *FEW, "--output", "two")[0] == 0
    assert len(ran) == 3
    for name in kill_study.FILES:
        assert (one / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    code, out, _ = ablate(tmp_path, *FEW, "--dry-run")
    assert (code, "3 cells, 3 done, 0 to do; 1 refused" in out) == (0, True)
    # a wider study takes what is there; --force takes nothing
    assert ablate(tmp_path, *FEW, "--layers", "1,2", "--output", "wider")[0] == 0
    assert ran[3:] == ["runs", "pairs"]
    assert ablate(tmp_path, *FEW, "--output", "two", "--force")[0] == 0
    assert ran[5:] == ["full", "runs", "pairs"]
    assert (one / "results.jsonl").read_bytes() == (tmp_path / "two" / "results.jsonl").read_bytes()


def test_a_dry_run_prints_cells_refusals_and_an_estimate(tmp_path: Path) -> None:
    code, out, told = ablate(tmp_path, *FEW, "--layers", "1,99", "--dry-run")
    assert code == 0, told
    assert "er weighted weight=none merger=pairs layers=1 budgets=0.5" in out
    assert "start layer 99 does not exist: the model has layers 0 to 9" in out
    assert "merger 'drop' reads importance, but scorer 'key-similarity' gives affinity" in out
    assert "3 cells, 0 done, 3 to do; 4 refused" in out
    assert "about " in out
    assert "ms a clip and cell on cpu)" in out
    assert not list(tmp_path.iterdir())
    about = json.loads(ablate(tmp_path, *FEW, "--dry-run", "--json")[1])
    assert (len(about["cells"]), len(about["refused"]), about["seconds"] > 0) == (3, 1, True)


def test_a_file_and_options_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        'limit = 2\nbaseline = { merger = "runs" }\n[axes]\ntasks = ["er"]\nmerger = ["runs", "pairs"]\n'
        'budgets = [0.3, 0.5]\n[set]\nweight = "none"\n[[leave_out]]\nmerger = "pairs"\nbudgets = 0.3\n'
    )
    store = ("--store", "store", "--output")
    assert ablate(tmp_path, "study.toml", *store, "file")[0] == 0
    options = ("--tasks", "er", "--limit", "2", "--merger", "runs,pairs", "--budgets", "0.3,0.5")
    rules = ("--set", "weight=none", "--leave-out", "merger=pairs,budgets=0.3", "--baseline", "merger=runs")
    assert ablate(tmp_path, *options, *rules, *store, "options")[0] == 0
    for name in kill_study.FILES:
        assert (tmp_path / "file" / name).read_bytes() == (tmp_path / "options" / name).read_bytes()
    standings = lines(tmp_path / "file" / "statistics.jsonl")
    found = {(line["axes"].get("merger"), line["budget"]): line["baseline"] for line in standings}
    assert found == {
        (None, None): None, ("runs", 0.3): None, ("runs", 0.5): None,
        ("pairs", 0.5): "weighted merger=runs budgets=0.5",
    }  # fmt: skip
    code, _, told = ablate(tmp_path, "study.toml", "--budgets", "0.5", *store, "file")
    assert code == 2
    assert "`leave_out[0].budgets`: '0.3' is no value of this axis" in told


def test_layers_that_are_chosen(tmp_path: Path) -> None:
    arguments = ("--tasks", "er", "--limit", "2", "--layers", "transfer-entropy,4", "--store", "store", "--json")
    code, out, told = ablate(tmp_path, *arguments, "--output", "out")
    assert code == 0, told
    cells = [Cell.model_validate(line) for line in lines(tmp_path / "out" / "results.jsonl")]
    assert [cell.axes.get("layers") for cell in cells] == [None, "transfer-entropy", "4"]
    assert cells[1].layer is not None
    assert cells[2].layer == 4
    assert len(json.loads(out)) == 3


class _Moody(Scorer):
    """A scorer that breaks until it is told not to."""

    name = "moody"
    gives = ("importance",)
    broken: ClassVar[bool] = True

    def importance(self, layer: Any) -> Any:
        if type(self).broken:
            raise MemoryError("out of memory, say")
        return layer.hidden.float().norm(dim=-1)


class _Plugin:
    @hookimpl
    def fastadasp_scorers(self) -> list[type[Scorer]]:
        return [_Moody]


def test_failures_are_kept_and_tried_again_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = fastadasp.get_registry()
    name = registry.register(_Plugin())
    ran = runs_counted(monkeypatch)
    arguments = ("--tasks", "er", "--limit", "2", "--store", "store", "--output", "out", "--strategies", "prune")
    arguments += ("--select", "moody,random")
    try:
        code, out, told = ablate(tmp_path, *arguments)
        assert code == 1
        assert "failed: er prune select=moody budgets=0.5: MemoryError: out of memory, say" in told
        assert "random" in out  # the axis is shown though one value of it failed
        assert [line["error"] is None for line in lines(tmp_path / "out" / "results.jsonl")] == [True, False, True]
        assert json.loads((tmp_path / "out" / "run.json").read_text())["failed"] == 1
        assert "MemoryError" in (tmp_path / "out" / "table.md").read_text()
        assert ablate(tmp_path, *arguments)[0] == 1
        assert len(ran) == 3
        monkeypatch.setattr(_Moody, "broken", False)
        assert ablate(tmp_path, *arguments, "--retry-failed")[0] == 0
        assert len(ran) == 4
    finally:
        registry.unregister(name)


def test_ctrl_c_ends_with_a_partial_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadasp.inference import runner

    real = runner.run_cell

    def interrupted(loaded: Any, strategy: Any, *args: Any, **kwargs: Any) -> Any:
        if strategy is not None and strategy.merger.name == "pairs":
            raise KeyboardInterrupt
        return real(loaded, strategy, *args, **kwargs)

    monkeypatch.setattr(runner, "run_cell", interrupted)
    code, out, told = ablate(tmp_path, *FEW, "--output", "out")
    assert code == 130
    assert "cancelled; 2 of 3 cells are done; the same command goes on from here" in told
    assert "full" in out
    assert len(lines(tmp_path / "out" / "results.jsonl")) == 2
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "cancelled"
    assert not list((tmp_path / "store" / "leases").iterdir())
    monkeypatch.undo()
    assert ablate(tmp_path, *FEW, "--output", "out")[0] == 0
    assert len(lines(tmp_path / "out" / "results.jsonl")) == 3


def test_killed_studies_end_in_the_same_bytes(tmp_path: Path) -> None:
    """Three kills of real processes; two processes at once do the rest; a fourth runs all of it undisturbed."""
    study = kill_study.SMALL.replace("layers = [1, 2, 3]", "layers = [1, 2]")
    counts = kill_study.kill_at_random(tmp_path, study, 49, 3, random.Random(1))
    assert counts == sorted(counts)
    assert 0 < counts[-1] < 49
    kept = kill_study.finished(tmp_path / "killed-store")
    kill_study.complete(tmp_path, study, "killed-store", "one", "two")
    end = kill_study.finished(tmp_path / "killed-store")
    assert all(end[name] == content for name, content in kept.items())
    assert len(end) == 49
    (tmp_path / "study.toml").write_text(study)
    assert ablate(tmp_path, "study.toml", "--store", "whole-store", "--output", "whole")[0] == 0
    for name in kill_study.FILES:
        whole = (tmp_path / "whole" / name).read_bytes()
        assert whole == (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    # each cell ran once: both processes found the same result of it
    assert lines(tmp_path / "one" / "times.jsonl") == lines(tmp_path / "two" / "times.jsonl")


@pytest.mark.skipif(not RAY, reason="Ray is not installed: pip install 'fastadasp[ray]'")
def test_ray_workers_give_the_same_results(tmp_path: Path) -> None:
    assert ablate(tmp_path, *FEW, "--output", "local")[0] == 0
    arguments = ["--executor", "ray", "--workers", "2", "--store", "other"]
    code, _, told = ablate(tmp_path, *FEW, "--output", "ray", *arguments)
    assert code == 0, told
    for name in kill_study.FILES:
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()


@pytest.mark.skipif(RAY, reason="Ray is installed")
def test_without_ray_there_is_a_message(tmp_path: Path) -> None:
    code, _, told = ablate(tmp_path, *FEW, "--executor", "ray")
    assert (code, "--executor ray needs Ray: pip install 'fastadasp[ray]'" in told) == (2, True)


@pytest.mark.skipif(not RAY, reason="Ray is not installed: pip install 'fastadasp[ray]'")
def test_a_ray_worker_that_dies_fails_its_cell_and_is_replaced() -> None:
    import ray

    from fastadasp.demo import model_path
    from fastadasp.experiments.combinations import make_grid
    from fastadasp.experiments.ray_workers import RayExecutor
    from fastadasp.experiments.spec import make_spec
    from fastadasp.experiments.worker import Job, Settings

    executor = RayExecutor(Settings(str(model_path()), ("er",), "cpu", limit=1), 1, None, None)
    try:
        usual: dict[str, list[Any]] = {"tasks": ["er"], "strategies": ["weighted"], "budgets": [0.5], "seeds": [0]}
        cell = make_grid(make_spec({}, usual), executor.facts()).points[0].cell
        job = Job("full", None, None, 0, "er", cell)
        executor.submit(job)
        ((actor, _),) = executor._busy.values()
        ray.kill(actor)
        (lost,) = executor.collect()
        assert lost.error is not None
        assert lost.error.startswith("ActorDiedError")
        executor.submit(job)
        (done,) = executor.collect()
        assert (done.error, done.cell) == (None, cell)
    finally:
        executor.close()


WRONG: dict[str, tuple[list[str], str, str]] = {
    # name: options, study file, message
    "no such file": (["none.toml"], "", "there is no study file none.toml"),
    "not TOML": ([], "axes = [", "study.toml is not valid TOML"),
    "unknown key": ([], "limits = 3", "`limits`: unknown key. Did you mean 'limit'?"),
    "wrong type": ([], 'limit = "three"', "`limit` is 'three': should be a valid integer"),
    "unknown axis": ([], '[axes]\nmergers = ["runs"]', "unknown axis 'mergers'. Did you mean 'merger'?"),
    "unknown component": (["--select", "key-simlarity"], "", "Did you mean 'key-similarity'"),
    "unknown strategy": (["--strategies", "weighed"], "", "Did you mean 'weighted'"),
    "unknown task": (["--tasks", "err"], "", "unknown task 'err'. Did you mean 'er'"),
    "task given twice": (["--tasks", "er,er=x.jsonl"], "", "task 'er' is given twice"),
    "unknown positions": (["--positions", "orginal"], "", "Did you mean 'original'?"),
    "empty axis": (["--merger", ","], "", "`axes.merger`: an axis has at least one value"),
    "empty axis in a file": ([], "[axes]\nseeds = []", "`axes.seeds`: an axis has at least one value"),
    "axis that is no list": ([], '[axes]\ntasks = "er"', "`axes.tasks` is 'er': should be a valid list"),
    "negative seed": (["--seeds=-1"], "", "a seed is a whole number, at least 0"),
    "budget of all": (["--budgets", "1"], "", "above 0 and below 1"),
    "impossible grid": (["--merger", "drop"], "", "the study has no cell: each of its 1 recipes is refused"),
    "no layer fits": (["--layers", "98,99"], "", "start layer 98 does not exist"),
    "all left out": (["--leave-out", "strategies=weighted"], "", "since all are left out"),
    "too many": (["--full", "--axis", "merger.k=" + ",".join(map(str, range(999)))], "", "more than 200000"),
    "axis and fixed": (["--merger", "runs", "--set", "merger=pairs"], "", "`set.merger`: this is an axis"),
    "rule on no axis": (["--leave-out", "merger=runs"], "", "the study has no such axis; its axes: tasks, strategies"),
    "rule that never matches": (["--merger", "runs", "--leave-out", "merger=rums"], "", "Did you mean 'runs'?"),
    "rule without a value": (["--leave-out", "merger"], "", "write axis=value"),
    "baseline by a word": (["--baseline", "best"], "", "`baseline` is 'best': write 'full', or axis=value"),
    "baseline on tasks": (["--baseline", "tasks=er"], "", "differences are taken within a task"),
    "baseline of two": ([], '[axes]\nseeds = [0]\n[baseline]\nbudgets = [0.5, 0.5]', "a baseline has one"),
    "several faults at once": ([], 'limit = 0\n[axes]\nmergr = ["runs"]\nlayers = [1.5]', "study.toml has 3 faults:"),
    "limit 0": (["--limit", "0"], "", "at least 1, not 0"),
    "axis without values": (["--axis", "site"], "", "write field=value,value"),
    "missing model": (["--model", "./nothing"], "", "there is no model folder ./nothing"),
    "missing manifest": (["--tasks", "asr=none.jsonl"], "", "there is no manifest none.jsonl"),
    "unknown executor": (["--executor", "slurm"], "", "executor is one of local, processes, ray, not 'slurm'"),
    "workers without others": (["--workers", "4"], "", "--workers needs --executor processes"),
    "unknown device": (["--device", "gpu"], "", "device is one of auto, cpu, cuda, not 'gpu'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_message_and_exit_code_2(case: str, tmp_path: Path) -> None:
    options, study, message = WRONG[case]
    file = []
    if study:
        (tmp_path / "study.toml").write_text(study)
        file = ["study.toml"]
    usual = [] if study or "--tasks" in options else ["--tasks", "er"]
    code, _, told = ablate(tmp_path, *file, *usual, *options, "--store", "store", "--output", "out")
    assert code == 2, told
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_what_is_set_may_be_of_a_component_that_an_axis_brings(tmp_path: Path) -> None:
    few = ("--tasks", "er", "--limit", "1", "--store", "store")
    code, _, told = ablate(tmp_path, *few, "--merger", "pairs", "--set", "merger.overlap=skip", "--output", "axis")
    assert code == 0, told
    record = Run.model_validate_json((tmp_path / "axis" / "run.json").read_text())
    assert (record.strategies["weighted"]["merger"]["name"], record.arguments["set"]) == (
        "runs",
        {"merger.overlap": "skip"},
    )
    # Without axes it stands in the recipes, and one that cannot have it is refused, not the study.
    given = ("--strategies", "a-tome,weighted", "--set", "merger.overlap=skip")
    code, _, told = ablate(tmp_path, *few, *given, "--output", "plain")
    assert (code, "1 cells were refused" in told) == (0, True), told
    record = Run.model_validate_json((tmp_path / "plain" / "run.json").read_text())
    assert [recipe["merger"]["overlap"] for recipe in record.strategies.values()] == ["skip"]


def test_folders_that_must_not_be_touched(tmp_path: Path) -> None:
    assert ablate(tmp_path, *FEW, "--output", "out")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    code, _, told = ablate(tmp_path, *FEW, "--layers", "2", "--output", "out")
    assert (code, "output folder out holds another study (changed: axes)" in told) == (2, True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "out" / "run.json").write_text("{")
    code, _, told = ablate(tmp_path, *FEW, "--output", "out")
    assert (code, "already holds a run (run.json) that cannot be understood" in told) == (2, True)
    (tmp_path / "file").write_text("")
    code, _, told = ablate(tmp_path, *FEW, "--output", "file/out")
    assert (code, "cannot be" in told) == (2, True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    code, _, told = ablate(tmp_path, *FEW, "--output", "run")
    assert (code, "already holds a run (run.json)" in told) == (2, True)
    code, _, told = ablate(tmp_path, *FEW[:4], "--store", "out", "--output", "other")
    assert (code, "store out is not a store" in told) == (2, True)
    (tmp_path / "store" / "store.json").write_text('{"format": 9}')
    code, _, told = ablate(tmp_path, *FEW, "--output", "other")
    assert (code, "was made by a newer version of fastadasp (format 9" in told) == (2, True)
    assert len(kill_study.finished(tmp_path / "store")) == 3


@pytest.mark.skipif(not RAY, reason="Ray is not installed: pip install 'fastadasp[ray]'")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address", "127.0.0.1:9"], "there is no Ray cluster at 127.0.0.1:9"),
        (["--address", "nowhere"], "--address is host:port, ray://host:port or auto, not 'nowhere'"),
        (["--workers", "0"], "--workers is at least 1, not 0"),
        (["--gpus-per-worker", "-1"], "--gpus-per-worker is at least 0, not -1"),
    ],
)
def test_wrong_input_for_ray(options: list[str], message: str, tmp_path: Path) -> None:
    code, _, told = ablate(tmp_path, *FEW, "--executor", "ray", *options)
    assert (code, message in told) == (2, True), told
