"""The parts of a study: cells and their hashes, the store, leases, several processes at once. No model runs."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

import fastadasp
from fastadasp import RunError
from fastadasp.contracts.task import Example
from fastadasp.experiments import identity
from fastadasp.experiments.combinations import make_grid, recipes
from fastadasp.experiments.identity import cell_hash, cell_identity, hash_examples
from fastadasp.experiments.leases import Leases
from fastadasp.experiments.records import Result
from fastadasp.experiments.spec import Spec, StudyFile, make_spec
from fastadasp.experiments.store import Store

DOCS = Path(__file__).parent.parent / "docs" / "studies.md"
USUAL: dict[str, list[Any]] = {"tasks": ["er"], "strategies": ["weighted"], "budgets": ["0.5"], "seeds": [0]}
FACTS: dict[str, Any] = {
    "format": 1, "model": "m", "family": "f", "layers": 10, "device": "cpu", "dtype": "float32", "batch_size": 12,
    "kernels": "auto", "versions": {"fastadasp": "0.1.0"}, "code": "c",
    "tasks": {"er": {"metric": "accuracy", "max_new_tokens": 4, "data": "d", "calibration": "k"}},
}  # fmt: skip


def spec(**content: Any) -> Spec:
    return make_spec(content, USUAL)


def plan(**content: Any) -> Any:
    return make_grid(spec(**content), FACTS)


def result(cell: str = "ab" * 32, **changes: Any) -> Result:
    values: dict[str, Any] = {
        "cell": cell, "identity": {}, "layer": 1, "metrics": {"accuracy": 50.0}, "interval": (0.0, 100.0),
        "efficiency": None, "answers": ["ja"], "error": None, "started": 1.0, "seconds": 0.5, "host": "here",
        "process": 1, "device_name": "cpu",
    }  # fmt: skip
    return Result(**values | changes)


# Cells


def test_the_grid_is_every_combination_with_the_full_model() -> None:
    made = plan(axes={"merger": ["runs", "pairs"], "layers": [1, 4], "budgets": ["0.3", "flops=0.2"]})
    assert len(made.points) == 1 + 2 * 2 * 2
    assert made.points[0].row.strategy is None
    one = next(p for p in made.points if p.labels.get("layers") == "4" and p.axes["merger"] == "pairs")
    assert (one.row.strategy.merger.name, one.row.strategy.layers.start_layer(10)) == ("pairs", 4)
    assert (one.row.name, one.labels["budgets"]) == ("weighted", "0.3")
    assert len({p.cell for p in made.points}) == 9


def test_only_what_draws_gets_several_seeds() -> None:
    made = plan(axes={"select": ["key-similarity", "random"], "seeds": [3, 4]})
    assert [(p.axes.get("select"), p.row.seed) for p in made.points] == [
        (None, 0), ("key-similarity", 0), ("random", 3), ("random", 4)
    ]  # fmt: skip
    assert [p.row.strategy.seed for p in made.points[1:]] == [0, 3, 4]


def test_refusals_are_the_components_own_words() -> None:
    made = plan(axes={"merger": ["runs", "drop"], "layers": [1, 99]})
    reasons = {refused.reason for refused in made.refused}
    assert len(made.points) == 2
    assert any("merger 'drop' reads importance, but scorer 'key-similarity' gives affinity" in r for r in reasons)
    assert "start layer 99 does not exist: the model has layers 0 to 9" in reasons


def test_cells_of_equal_content_run_once() -> None:
    made = plan(axes={"merger": ["pairs", {"name": "pairs", "overlap": "fill"}]})
    assert len(made.points) == 2
    assert [refused.reason for refused in made.refused] == ["is the same as weighted merger=pairs budgets=0.5"]


def test_a_component_that_the_recipe_has_keeps_its_parameters(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    base = fastadasp.load_strategy("a-tome").replace(merger={"name": "pairs", "overlap": "skip"})
    recipe.write_text(base.to_toml())
    made, _, _ = recipes(spec(axes={"strategies": [str(recipe)], "merger": ["pairs", "runs"]}))
    assert made[0][1].merger.parameters() == {"overlap": "skip"}
    assert made[1][1].merger.name == "runs"


def test_cells_are_left_out_by_rules() -> None:
    axes = {"merger": ["runs", "pairs"], "schedule": ["constant", "decay"], "budgets": [0.3, 0.5]}
    everything = plan(axes=axes)
    made = plan(axes=axes, leave_out=[{"merger": "runs", "budgets": 0.3}, {"schedule": ["decay"], "tasks": "er"}])
    assert (len(everything.points), len(made.points), made.left_out) == (9, 1 + 3, 5)
    assert all(p.axes.get("schedule") != "decay" for p in made.points)


def test_the_whole_grid() -> None:
    """All components of every kind, with the reason for each that does not fit."""
    made = plan(full=True, axes={"layers": [1], "schedule": ["decay"], "positions": ["original"], "site": ["block"]})
    names = {kind: [e.name for e in fastadasp.get_registry().entries(kind)] for kind in ("scorer", "merger")}
    tried = len(names["scorer"]) * (len(names["scorer"]) + 1) * len(names["merger"])
    assert len(made.points) - 1 + len(made.refused) == tried
    assert all(refused.reason for refused in made.refused)
    assert {"merger", "select"} <= {word for r in made.refused for word in re.findall(r"\w+", r.reason)}


def test_a_cells_hash_tells_all_that_decides_it_and_nothing_else() -> None:
    strategy = fastadasp.load_strategy("weighted")

    def cell(recipe: Any = strategy, **changes: Any) -> str:
        return cell_hash(cell_identity(recipe, "er", {**FACTS, **changes}))

    assert cell() == cell(strategy.replace(name="other", summary="x", source="y")) == cell(layers=12)
    task = FACTS["tasks"]["er"]
    others = [
        cell(None), cell(strategy.replace(seed=1)), cell(strategy.with_budget(0.4)),
        cell(strategy.replace(layers={"layer": 2})),
        *(cell(**{key: "other"}) for key in ("format", "model", "family", "device", "dtype", "batch_size", "kernels")),
        cell(versions={"fastadasp": "0.2.0"}), cell(code="other"),
        *(cell(tasks={"er": task | {key: "other"}}) for key in ("metric", "max_new_tokens", "data")),
    ]  # fmt: skip
    assert len({cell(), *others}) == len(others) + 1
    calibrated = strategy.replace(layers="transfer-entropy")
    assert cell(tasks={"er": task | {"calibration": "other"}}) == cell()
    assert cell(calibrated, tasks={"er": task | {"calibration": "other"}}) != cell(calibrated)


def test_a_cells_hash_knows_the_plugins_source(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cell_identity(fastadasp.load_strategy("weighted"), "er", FACTS)
    monkeypatch.setattr(identity, "_source", lambda module: f"edited {module}")
    after = cell_identity(fastadasp.load_strategy("weighted"), "er", FACTS)
    assert "fastadasp 0.1.0 fastadasp_plugins.runs" in before["components"]["merger"]
    assert {part for part in before["components"] if before["components"][part] != after["components"][part]} == {
        "select", "weight", "merger", "schedule", "layers"
    }  # fmt: skip


def test_every_source_that_a_cell_runs_through_is_hashed() -> None:
    """Whatever of fastadasp is loaded once a worker and a runner are, counts; the command line does not."""
    code = (
        "import sys, fastadasp.experiments.worker, fastadasp.experiments.cell, fastadasp.experiments.starts;"
        "import fastadasp.inference.clips; from fastadasp.strategy import get_registry; get_registry();"
        "print(*sorted(m.__file__ for n, m in sys.modules.items() if n.startswith('fastadasp.') and m.__file__))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    root = Path(identity.__file__).parents[1]
    hashed = {str(path) for pattern in identity.CODE for path in root.glob(pattern)}
    apart = {"__init__.py", "identity.py", "records.py"}  # of the study itself: they name cells, they do not run them
    missing = {name for name in loaded if name not in hashed and "/demo/" not in name and Path(name).name not in apart}
    assert missing == set()


def test_data_is_hashed_by_content(tmp_path: Path) -> None:
    def examples(folder: str, sound: bytes = b"sound", reference: str = "ja") -> list[Example]:
        path = tmp_path / folder / "clip.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sound)
        return [Example("one", path, "What?", reference, {"speaker": folder})]

    assert hash_examples(examples("a")) == hash_examples(examples("b"))
    assert len({hash_examples(examples("a", *change)) for change in ((), (b"noise",), (b"sound", "nein"))}) == 3


# The store


def test_the_store_keeps_what_it_is_given(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", pytest.fail)
    assert store.get("ab" * 32) is None
    store.put(result())
    assert Store(tmp_path / "store", pytest.fail).get("ab" * 32) == result()
    assert not list((tmp_path / "store" / "parts").iterdir())


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "binary", "another cell"])
def test_a_damaged_cell_is_put_aside(damage: str, tmp_path: Path) -> None:
    told: list[str] = []
    store = Store(tmp_path / "store", told.append)
    store.put(result())
    (path,) = (tmp_path / "store" / "cells").glob("*/*.json")
    content = path.read_bytes()
    other = store._file("cd" * 32)
    changed = content.replace(b'"ja"', b'"no"')
    damaged = {"cut": content[:-40], "changed": changed, "empty": b"", "binary": b"\xff\x00\n"}
    if damage == "another cell":
        other.parent.mkdir()
        path.rename(other)
    else:
        path.write_bytes(damaged[damage])
    cell = "cd" * 32 if damage == "another cell" else "ab" * 32
    assert store.get(cell) is None
    assert "was damaged and is run again" in told[0]
    assert len(list((tmp_path / "store" / "cells").glob("*/*.damaged-*"))) == 1
    store.put(result(cell))
    assert store.get(cell) is not None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_in_a_store_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", pytest.fail)
    path = store._file("ab" * 32)
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(RunError, match="no ordinary file"):
        store.get("ab" * 32)


def test_a_store_file_that_is_nested_too_deep_is_put_aside(tmp_path: Path) -> None:
    told: list[str] = []
    store = Store(tmp_path / "store", told.append)
    store._file("ab" * 32).parent.mkdir()
    store._file("ab" * 32).write_text("[" * 100_000 + "\n{}\n")
    assert store.get("ab" * 32) is None
    assert "was damaged" in told[0]


def test_each_fault_of_a_study_is_told_once() -> None:
    axes = {"tasks": [1], "strategies": ["nothing"], "budgets": ["2"], "seeds": [-1], "merger": ["rums"]}
    with pytest.raises(RunError, match="study has 4 faults") as told:
        make_spec({"axes": axes}, USUAL)
    assert [str(told.value).count(f"`axes.{name}`") for name in ("tasks", "budgets", "seeds", "merger")] == [1] * 4


def test_a_dry_run_moves_nothing(tmp_path: Path) -> None:
    Store(tmp_path / "store", pytest.fail).put(result())
    (path,) = (tmp_path / "store" / "cells").glob("*/*.json")
    path.write_bytes(b"")
    assert Store(tmp_path / "store", pytest.fail, write=False).get("ab" * 32) is None
    assert path.exists()
    assert Store(tmp_path / "none", pytest.fail, write=False).get("ab" * 32) is None
    assert not (tmp_path / "none").exists()


def test_stores_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file; a store is a folder"):
        Store(tmp_path / "file", print)
    with pytest.raises(RunError, match="cannot be written: Not a directory"):
        Store(tmp_path / "file" / "store", print)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters.txt").write_text("")
    with pytest.raises(RunError, match=r"is not a store: it holds 'letters\.txt'"):
        Store(tmp_path / "home", print)
    Store(tmp_path / "store", print)
    (tmp_path / "store" / "store.json").write_text("{")
    with pytest.raises(RunError, match="cannot be understood"):
        Store(tmp_path / "store", print)
    (tmp_path / "store" / "store.json").write_text('{"format": 2}')
    with pytest.raises(RunError, match=r"made by a newer version of fastadasp \(format 2; this one knows 1\)"):
        Store(tmp_path / "store", print)


def test_a_newer_cell_is_neither_read_nor_put_aside(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", pytest.fail)
    store.put(result())
    (path,) = (tmp_path / "store" / "cells").glob("*/*.json")
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 2', 1))
    with pytest.raises(RunError, match="newer version"):
        store.get("ab" * 32)
    assert path.exists()


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store", pytest.fail)
    store.put(result())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"store .* cannot be written: No space left on device"):
        store.put(result(answers=["nein"]))
    monkeypatch.undo()
    assert store.get("ab" * 32) == result()


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    Store(tmp_path / "store", print)
    old, new = tmp_path / "store" / "parts" / "old", tmp_path / "store" / "parts" / "new"
    old.write_text("")
    new.write_text("")
    os.utime(old, (0, 0))
    Store(tmp_path / "store", print)
    assert (old.exists(), new.exists()) == (False, True)


# Leases


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    with Leases(tmp_path) as one, Leases(tmp_path) as two:
        assert one.take("a")
        assert not two.take("a")
        assert two.take("b")
        assert f"process {os.getpid()} on " in two.owner("a")
        one.give_back("a")
        assert two.take("a")
    assert not list(tmp_path.iterdir())


def test_a_dead_process_of_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with Leases(tmp_path) as lease:
        assert lease.take("a")
        about = json.loads((tmp_path / "a.json").read_text())
        (tmp_path / "b.json").write_text(json.dumps(about | {"process": gone.pid, "token": "x"}))
        assert lease.take("b")


def test_an_owner_elsewhere_is_dead_when_its_heart_stops(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"host": "elsewhere", "boot": "", "process": 1, "token": "x"}))
    (tmp_path / "b.json").write_text("")  # its owner died before it wrote its name
    with Leases(tmp_path, patience=0.4) as lease:
        beats = 0
        while not lease.take("a"):
            if beats < 8:  # alive until then
                os.utime(tmp_path / "a.json")
            beats += 1
            time.sleep(0.1)
        assert beats > 8
        end = time.monotonic() + 10
        while not lease.take("b") and time.monotonic() < end:
            time.sleep(0.1)
        assert lease.take("b") is False  # it is ours by now


def test_a_lease_from_the_future_is_not_waited_for(tmp_path: Path) -> None:
    """Its owner is dead when nothing changes, whatever the date of the file."""
    (tmp_path / "a.json").write_text(json.dumps({"host": "elsewhere", "boot": "", "process": 1, "token": "x"}))
    os.utime(tmp_path / "a.json", (time.time() + 1e8,) * 2)
    with Leases(tmp_path, patience=0.2) as lease:
        assert not lease.take("a")
        time.sleep(0.3)
        assert lease.take("a")


def test_leases_are_renewed(tmp_path: Path) -> None:
    with Leases(tmp_path, beat=0.05) as lease:
        lease.take("a")
        os.utime(tmp_path / "a.json", (0, 0))
        end = time.monotonic() + 10
        while (tmp_path / "a.json").stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.02)
        assert (tmp_path / "a.json").stat().st_mtime > 0


# Several processes, killed at will: a real store and real leases, with cells that only sleep

SLEEPER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_study import FACTS, USUAL, result
from fastadasp.experiments.drive import Finished, Redo, run
from fastadasp.experiments.combinations import make_grid
from fastadasp.experiments.spec import make_spec
from fastadasp.experiments.store import Store

class Sleeper:
    jobs = []
    def facts(self): return FACTS
    def free(self): return not self.jobs
    def submit(self, job): self.jobs.append(job)
    def collect(self):
        job = self.jobs.pop()
        time.sleep(0.02)
        with open("ran", "a") as log:
            log.write(job.cell + "\\n")
        return [result(job.cell, answers=["word"] * 2000)]
    def close(self): pass

spec = make_spec({{"axes": {{"select": ["random"], "layers": [1, 2, 3], "seeds": list(range(40))}}}}, USUAL)
finished = Finished(make_grid(spec, FACTS))
run(finished, Store(Path("store"), print), Sleeper(), redo=Redo(), notice=print)
assert finished.status == "finished" and len(finished.results) == 121
"""


def sleeper(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SLEEPER.format(tests=str(Path(__file__).parent))], cwd=folder)


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    processes = [sleeper(tmp_path) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    ran = (tmp_path / "ran").read_text().split()
    assert len(ran) == len(set(ran)) == 121
    assert not list((tmp_path / "store" / "leases").iterdir())


def test_kills_lose_at_most_the_cell_in_flight(tmp_path: Path) -> None:
    """Two processes at a time, both killed, six times; then one goes on to the end."""
    rng, cells = random.Random(4), tmp_path / "store" / "cells"
    for kill in range(6):
        one, two = sleeper(tmp_path), sleeper(tmp_path)
        goal, end = 15 * (kill + 1), time.monotonic() + 60
        while len(list(cells.glob("*/*.json"))) < goal and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        for process in (one, two):
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert sleeper(tmp_path).wait(timeout=120) == 0
    ran = (tmp_path / "ran").read_text().split()
    assert len(set(ran)) == 121
    assert len(ran) - 121 <= 12  # each kill may have taken a cell along, of each process
    kept = [Result.model_validate_json(path.read_bytes().split(b"\n")[1]) for path in cells.glob("*/*.json")]
    assert {one.cell for one in kept} == set(ran)
    assert not list(cells.glob("*/*.damaged*"))


# Documentation


def test_every_key_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")
    records = (StudyFile, Result)
    for model in records:
        for name, field in model.model_fields.items():
            assert f"| `{name}` | {field.description} |" in text, f"docs/studies.md lacks {model.__name__}.{name}"
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert documented <= {name for model in records for name in model.model_fields}


def test_the_example_of_the_documentation_is_a_study() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    made = make_spec(tomllib.loads(block), USUAL)
    found, refused, left_out = recipes(made)
    assert {recipe.positions for _, recipe in found} == {"compact"}
    assert (made.baseline, left_out > 0, len(refused) > 0) == ({"merger": "runs"}, True, False)
