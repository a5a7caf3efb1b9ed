"""vLLM with a strategy gives the tokens of transformers with it. Needs the environment of tools/vllm_env.sh."""

from __future__ import annotations

from typing import Any

import pytest
from inside import MARKS, results, started

COUNT = 4
SETTINGS = [
    {"strategy": "affinity-pooling", "budget": 0.5, "positions": "original"},
    {"strategy": "uniform", "budget": 0.5, "positions": "even"},
    {"strategy": "divprune", "budget": 0.5, "positions": "compact"},
]
OTHER = {"strategy": "affinity-pooling", "budget": 0.3, "positions": "original"}

pytestmark = MARKS


def run(what: str, **asked: Any) -> Any:
    return results("run.py", what, asked)[-1]


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
    done = started("run.py", "served", {"setting": {"strategy": "fastadasp-dense"}, "count": 1, "budgets": []})
    assert done.returncode != 0
    assert "cannot be served: recipe 'fastadasp-dense' needs queries and keys" in done.stdout + done.stderr
