"""What is kept between runs: shown, found again by other processes, and removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import run

from fastadasp.cli.cache import KINDS, in_bytes, weigh

pytestmark = pytest.mark.usefixtures("own_cache")

ONE = ("compare", "--tasks", "er", "--strategies", "prune", "--budgets", "0.5", "--limit", "2", "--output")


def shown() -> dict[str, tuple[int, int]]:
    done = subprocess.run(
        [sys.executable, "-m", "fastadasp", "cache", "--json"], capture_output=True, text=True, check=True
    )
    return {row["name"]: (row["files"], row["bytes"]) for row in json.loads(done.stdout)["kept"]}


def test_features_are_found_by_another_process_and_can_be_removed(own_cache: Path, tmp_path: Path) -> None:
    assert run(*ONE, str(tmp_path / "a"))[0] == 0
    files = {path: path.read_bytes() for path in (own_cache / "features").rglob("*.safetensors")}
    assert len(files) == 2
    assert shown()["features"] == (2, sum(len(content) for content in files.values()))
    code = (
        "import sys\nfrom fastadasp.engine import encoding\nfrom fastadasp.inference import clips\n"
        "def never(*_): raise SystemExit('the encoder ran')\n"
        "before = clips.encode\n"
        "def encode(loaded, examples, waves, known=None, **options):\n"
        "    return never() if known is None else before(loaded, examples, waves, known, **options)\n"
        "clips.encode = encode\n"
        "from fastadasp.experiments import probe\nprobe.probe = lambda *_: probe.Forecast(0.0, '')\n"
        "from fastadasp.experiments import drive\ndrive.probe = probe.probe\n"
        f"sys.argv = ['fastadasp', *{(*ONE, str(tmp_path / 'b'))!r}]\n"
        "from fastadasp.cli.app import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "a" / "results.jsonl").read_bytes() == (tmp_path / "b" / "results.jsonl").read_bytes()
    code_, told = run("cache", "--clear", "features,layers")
    assert (code_, "removed 2 files of features" in told) == (0, True)
    assert not (own_cache / "features").exists()
    assert run("cache", "--clear", "all")[0] == 0


def test_what_cannot_be_removed_is_named(own_cache: Path) -> None:
    (own_cache / "own").mkdir(parents=True)
    for given, said in (
        ("feature", "not 'feature'. Did you mean 'features'?"),
        ("../x", "not '../x'"),
        (",", "--clear is"),
    ):
        code, told = run("cache", "--clear", given)
        assert (code, said in told, told.count("\n")) == (2, True, 1), told
    assert run("cache", "--clear", "all")[0] == 0
    assert (own_cache / "own").exists()  # what is not ours stays


def test_sizes_in_words(tmp_path: Path) -> None:
    assert [in_bytes(n) for n in (0, 999, 1234, 5_600_000, 7_000_000_000, 9 * 10**12)] == [
        "0 B",
        "999 B",
        "1.2 kB",
        "5.6 MB",
        "7.0 GB",
        "9.0 TB",
    ]
    assert weigh(tmp_path / "nowhere") == (0, 0)


def test_every_folder_of_the_cache_is_listed() -> None:
    room = Path(__file__).parents[1] / "fastadasp"
    import re

    named = {
        name for path in room.rglob("*.py") for name in re.findall(r'cache_folder\(\) / "(\w+)"', path.read_text())
    }
    assert named == set(KINDS)
