"""vLLM with a strategy gives the tokens of transformers with it. Needs the environment of tools/vllm_env.sh."""

from __future__ import annotations

from typing import Any

import pytest
from inside import MARKS, results, started

OWN = {"strategy": "affinity-pooling", "budget": 0.8, "positions": "original"}
EVEN = {"strategy": "uniform", "budget": 0.7, "positions": "even"}
COMPACT = {"strategy": "divprune", "budget": 0.5, "positions": "compact"}
PLAIN = {"kind": "plain"}
OTHER = "Is the speaker female or male?"
ASKS = {
    "all at once": PLAIN,
    "again, from the caches": PLAIN,
    "after a cached prefix": {"kind": OTHER},
    "two clips a prompt": {"kind": "two"},
    "a budget by request": {"kind": "plain", "budgets": [0.7]},
    "mixed budgets": {"kind": "plain", "budgets": [None, 0.7]},
    "some with the full model": {"kind": "plain", "budgets": [0, 0.7]},
}
ENGINES: dict[str, dict[str, Any]] = {
    # prompts enter in pieces of 64 tokens, three requests at a time, while others already answer
    "chunked": {"setting": OWN, "asks": list(ASKS.values()), "max_num_batched_tokens": 64, "max_num_seqs": 3,
                "block_size": 32},
    "compiled": {"setting": OWN, "asks": [PLAIN], "enforce_eager": False},
    "bfloat16": {"setting": OWN, "asks": [PLAIN], "dtype": "bfloat16"},
    "even": {"setting": EVEN, "asks": [PLAIN]},
    "compact": {"setting": COMPACT, "asks": [PLAIN]},
    # vLLM as it is, with what `fastadasp export-embeddings` writes in the place of sound
    "embeddings": {"setting": None, "asks": [PLAIN | {"embeddings": COMPACT}], "enable_mm_embeds": True},
}  # fmt: skip
REFERENCES = {
    "own": OWN,
    "even": EVEN,
    "compact": COMPACT,
    "own at 70 %": OWN | {"budget": 0.7},
    "full": OWN | {"strategy": None},
    "other": OWN | {"ask": OTHER},
    "two": OWN | {"ask": "two"},
    "bfloat16": OWN | {"dtype": "bfloat16"},
}

pytestmark = MARKS


@pytest.fixture(scope="module")
def reference() -> dict[str, list[list[int]]]:
    return dict(zip(REFERENCES, results("run.py", "reference", list(REFERENCES.values()))[0], strict=True))


@pytest.fixture(scope="module")
def engines() -> dict[str, list[dict]]:
    return dict(zip(ENGINES, results("run.py", "served", list(ENGINES.values())), strict=True))


def test_the_settings_answer_differently(reference) -> None:
    """Otherwise equal tokens would prove nothing."""
    for name in ("even", "compact", "own at 70 %", "full", "other"):
        assert reference[name] != reference["own"]


@pytest.mark.parametrize("ask", ASKS)
def test_however_prompts_come_in(reference, engines, ask: str) -> None:
    expected = {"after a cached prefix": "other", "two clips a prompt": "two", "a budget by request": "own at 70 %"}
    wanted = reference[expected.get(ask, "own")]
    if first := {"mixed budgets": "own", "some with the full model": "full"}.get(ask):
        wanted = [reference["own at 70 %" if i % 2 else first][i] for i in range(len(wanted))]
    assert engines["chunked"][list(ASKS).index(ask)]["tokens"] == wanted


def test_a_cached_prefix_ended_inside_a_clip(engines) -> None:
    asked = engines["chunked"][list(ASKS).index("after a cached prefix")]
    pairs = zip(asked["cached"], asked["clips"], strict=True)
    assert any(clip[0] < cached <= clip[-1] for cached, clip in pairs)


def test_a_prompt_counts_short_clips(engines) -> None:
    """A fifth is left of each clip; a request's own budget leaves more."""
    plain, mixed = (engines["chunked"][list(ASKS).index(ask)]["clips"] for ask in ("all at once", "mixed budgets"))
    assert all((len(b) > len(a)) is bool(i % 2) for i, (a, b) in enumerate(zip(plain, mixed, strict=True)))


@pytest.mark.parametrize("engine", ["compiled", "bfloat16", "even", "compact", "embeddings"])
def test_however_the_engine_runs(reference, engines, engine: str) -> None:
    assert engines[engine][0]["compiles"] is (engine == "compiled")
    assert engines[engine][0]["tokens"] == reference[{"compiled": "own", "embeddings": "compact"}.get(engine, engine)]


def test_what_cannot_be_served_is_refused_at_the_start() -> None:
    asked = [{"setting": {"strategy": "fastadasp-dense"}, "asks": [PLAIN]}]
    done = started("run.py", "served", asked)
    assert done.returncode != 0
    assert "cannot be served: recipe 'fastadasp-dense' needs queries and keys" in done.stdout + done.stderr
