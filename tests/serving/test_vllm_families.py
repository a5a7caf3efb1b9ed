"""Further families: vLLM with a strategy gives the tokens of transformers with it, on tiny random checkpoints."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from inside import HERE, MARKS, results

EXTRA = Path(sys.prefix) / "extra"  # torchvision and torchaudio, which some families' processors import
FAMILIES = ["qwen2_5_omni", "qwen3_asr", "audioflamingo3", "glmasr", "granite_speech", "voxtral"]
SETTING = {"strategy": "affinity-pooling", "budget": 0.5, "positions": "original"}
OTHERS = [SETTING | {"positions": "compact"}, SETTING | {"positions": "even"}, SETTING | {"budget": 0.3}, None]

pytestmark = [*MARKS, pytest.mark.skipif(not EXTRA.is_dir(), reason="tools/vllm_env.sh made no folder `extra` here")]


@pytest.fixture(scope="module")
def made() -> dict[str, dict]:
    path = os.pathsep.join([str(EXTRA), str(HERE / "startup")])
    return {found["family"]: found for found in results("run_families.py", FAMILIES, SETTING, OTHERS, PYTHONPATH=path)}


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_transformers(made, family: str) -> None:
    found = made[family]
    assert "error" not in found, found["error"]
    reference, served = found["reference"][0], found["served"]
    assert served["tokens"] == reference["tokens"]
    assert served["again"] == reference["tokens"]  # from the caches
    assert (torch.tensor(served["logprobs"]) - torch.tensor(reference["logprobs"])).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_anything_else_would_be_noticed(made, family: str) -> None:
    """Other positions, another budget and the full model answer otherwise, and clips are told apart."""
    served = made[family]["served"]["tokens"]
    assert all(other["tokens"] != served for other in made[family]["reference"][1:])
    assert len({tuple(tokens) for tokens in served}) >= 4
