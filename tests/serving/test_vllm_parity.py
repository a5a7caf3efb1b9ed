"""vLLM with a strategy gives the tokens of transformers with it. Needs the environment of tools/vllm_env.sh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastadasp.serving.vllm import fault

RUN = Path(__file__).with_name("run.py")
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
COUNT = 4
SETTINGS = [
    {"strategy": "affinity-pooling", "budget": 0.5, "positions": "original"},
    {"strategy": "uniform", "budget": 0.5, "positions": "even"},
    {"strategy": "divprune", "budget": 0.5, "positions": "compact"},
]
OTHER = {"strategy": "affinity-pooling", "budget": 0.3, "positions": "original"}

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(fault() is not None, reason=str(fault()))]


def run(what: str, **asked: Any) -> Any:
    done = subprocess.run(
        [sys.executable, str(RUN), what, json.dumps(asked)],
        env=os.environ | QUIET, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(found[-1].removeprefix("RESULT "))


@pytest.fixture(scope="module")
def reference() -> list[list[list[int]]]:
    return run("reference", settings=[*SETTINGS, OTHER], count=COUNT)


def test_the_settings_answer_differently(reference) -> None:
    """Otherwise equal tokens would prove nothing."""
    assert all(a != b for i, a in enumerate(reference) for b in reference[:i])


@pytest.mark.parametrize("which", range(len(SETTINGS)), ids=[f"{s['strategy']}-{s['positions']}" for s in SETTINGS])
def test_tokens_are_those_of_transformers(reference, which: int) -> None:
    made = run("served", setting=SETTINGS[which], count=COUNT, budgets=[0.3] if which == 0 else [])
    assert made["tokens"] == reference[which]
    assert made["again"] == reference[which]
    if which == 0:
        assert made["budgets"] == [reference[-1]]


def test_what_cannot_be_served_is_refused_at_the_start() -> None:
    asked = {"setting": {"strategy": "fastadasp-dense"}, "count": 1, "budgets": []}
    done = subprocess.run(
        [sys.executable, str(RUN), "served", json.dumps(asked)],
        env=os.environ | QUIET, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "cannot be served: recipe 'fastadasp-dense' needs queries and keys" in done.stdout + done.stderr
