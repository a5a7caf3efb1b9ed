"""`fastadasp compare --engine vllm` gives the rows of transformers: answers, scores, tokens and FLOPs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from inside import MARKS, QUIET

pytestmark = MARKS

STRATEGIES = ("affinity-pooling", "average-pool", "divprune", "evs", "halving", "ltbm")
GRID = ["--strategies", ",".join(STRATEGIES), "--tasks", "asr", "--limit", "4", "--budgets", "0.3,0.5"]
GRID += ["--dtype", "float32"]
SAME = ("strategy", "task", "budget", "layer", "seed", "clips", "metrics", "interval", "error")
COSTS = ("audio_tokens", "audio_tokens_left", "audio_tokens_removed", "kv_bytes", "kv_removed", "flops")


def rows(folder: Path, *options: str) -> tuple[list[dict], list[str]]:
    """The cells of a comparison, and its answers."""
    done = subprocess.run(
        [sys.executable, "-m", "fastadasp", "compare", *GRID, *options, "--output", str(folder)],
        env=os.environ | QUIET | {"FASTADASP_CACHE": str(folder / "cache")}, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    lines = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("results", "predictions")
    }
    return lines["results"], [line["prediction"] for line in lines["predictions"]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[dict], list[str]]]:
    folder = tmp_path_factory.mktemp("compare")
    return [rows(folder / "there"), rows(folder / "vllm", "--engine", "vllm")]


def test_rows_are_those_of_transformers(both) -> None:
    (there, answers), (served, given) = both
    assert len(there) == len(served) == 1 + 2 * len(STRATEGIES)
    assert answers == given
    assert len(set(answers)) > 4  # recipes differ in what they cost, so equal answers prove something
    for a, b in zip(there, served, strict=True):
        assert {key: a[key] for key in SAME} == {key: b[key] for key in SAME}
        costs = [{key: row["efficiency"][key] for key in COSTS} for row in (a, b)]
        assert costs[1] == pytest.approx(costs[0])


def test_a_row_says_which_engine_made_it(both) -> None:
    (there, _), (served, _) = both
    assert {row["engine"] for row in there} == {"transformers"}
    assert {row["engine"].split()[0] for row in served} == {"vllm"}
    assert {row["cell"] for row in there}.isdisjoint(row["cell"] for row in served)
