"""A study that is killed again and again: `python tests/kill_study.py --kills 10` runs more than 200 cells of the
embedded model once undisturbed and once killed at random, and compares the bytes. The tests do the same on fewer."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LARGE = """\
limit = 2
[axes]
tasks = ["er"]
select = ["random", "key-similarity"]
weight = ["none", "uniform"]
merger = ["runs", "pairs"]
schedule = ["single-shot", "constant", "decay"]
layers = [1, 2, 3]
seeds = [0, 1, 2, 3, 4]
"""
"""217 cells: 2 x 2 x 3 x 3 recipes with 5 seeds, as many that draw nothing, and the full model."""

SMALL = LARGE.replace('"single-shot", "constant", "decay"', '"single-shot", "decay"').replace(
    "[0, 1, 2, 3, 4]", "[0, 1]"
)
"""73 cells."""

FILES = ("results.jsonl", "predictions.jsonl", "statistics.jsonl", "table.md")
"""What does not depend on clocks and machines."""


def start(folder: Path, study: str, store: str, output: str, *arguments: str) -> subprocess.Popen[str]:
    """`fastadasp ablate` in a process of its own, in `folder`."""
    (folder / "study.toml").write_text(study)
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from fastadasp.cli.app import main; main()"
    command = [sys.executable, "-c", code, "ablate", "study.toml", "--store", store, "--output", output, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    out = (folder / f"{output}.log").open("a")
    return subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, text=True, env=environment)


def finished(store: Path) -> dict[str, bytes]:
    """The cells of a store, by name."""
    return {path.name: path.read_bytes() for path in (store / "cells").glob("*/*.json")}


def kill_at_random(folder: Path, study: str, cells: int, kills: int, rng: random.Random) -> list[int]:
    """Starts a study `kills` times and kills it each time; the cells that were there after each kill.

    Now and then the kill comes early, while the program still starts; else after some cells and a part of one.
    """
    store, counts = folder / "killed-store", list[int]()
    for number in range(kills):
        before = finished(store)
        process = start(folder, study, "killed-store", "killed")
        if rng.random() < 0.1:
            time.sleep(rng.uniform(0, 5))
        else:
            goal = min(len(before) + rng.randint(1, max(1, 2 * cells // (kills + 1))), cells - kills + number)
            end = time.monotonic() + 500
            while len(finished(store)) < goal and process.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        after = finished(store)
        assert all(after[name] == content for name, content in before.items()), "a finished cell was touched"
        for content in after.values():  # whole, each of them
            json.loads(content.split(b"\n")[1])
        counts.append(len(after))
    return counts


def complete(folder: Path, study: str, store: str, *outputs: str) -> list[float]:
    """Runs a study to its end, by as many processes at once as there are outputs; seconds until each was done."""
    begin, seconds = time.monotonic(), []
    for process, output in [(start(folder, study, store, output), output) for output in outputs]:
        assert process.wait(timeout=1800) == 0, (folder / f"{output}.log").read_text()
        seconds.append(time.monotonic() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (whole,) = complete(folder, LARGE, "whole-store", "whole")
        cells = len(finished(folder / "whole-store"))
        print(f"undisturbed: {cells} cells in {whole:.0f} s", flush=True)
        begin = time.monotonic()
        counts = kill_at_random(folder, LARGE, cells, options.kills, random.Random(options.seed))
        kept = finished(folder / "killed-store")
        (rest,) = complete(folder, LARGE, "killed-store", "killed")
        print(f"killed {options.kills} times, with {counts} cells finished; then completed in {rest:.0f} s, all in "
              f"{time.monotonic() - begin:.0f} s")  # fmt: skip
        end = finished(folder / "killed-store")
        assert end.keys() == finished(folder / "whole-store").keys()
        assert all(end[name] == content for name, content in kept.items())
        assert not list((folder / "killed-store").rglob("*.damaged*"))
        for file in FILES:
            same = (folder / "whole" / file).read_bytes() == (folder / "killed" / file).read_bytes()
            print(f"{file}: {'the same bytes' if same else 'DIFFERENT'} ({(folder / 'whole' / file).stat().st_size})")
            assert same


if __name__ == "__main__":
    main()
