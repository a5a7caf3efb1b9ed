"""The store of finished cells, and the leases by which processes share its work."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from study_cases import USUAL, result

from fastadasp import RunError
from fastadasp.experiments.leases import Leases
from fastadasp.experiments.records import Result
from fastadasp.experiments.spec import make_spec
from fastadasp.experiments.store import Store

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
from study_cases import FACTS, USUAL, result
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
