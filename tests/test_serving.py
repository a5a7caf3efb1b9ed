"""What serving reads and computes without an engine: options, refusals, positions, places that travel."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastadasp import StrategyError
from fastadasp.serving.options import client_faults, overrides, serving
from fastadasp.serving.vllm.positions import Clip, pack, places_of, rows
from fastadasp.serving.vllm.remembered import Counts

ROOT = Path(__file__).parents[1]


def test_a_strategy_moves_before_the_first_layer() -> None:
    made = serving({"strategy": "uniform", "budget": 0.25, "positions": "even"}, 4)
    assert (made.strategy.site, made.strategy.positions) == ("input", "even")
    assert (made.left(40), made.left(40, 0.5), made.left(40, "ratio=0.1")) == (30, 20, 36)


def test_what_a_client_got_wrong_is_an_error_that_vllm_tells_the_client() -> None:
    made = serving({"strategy": "uniform", "budget": 0.25}, 4)
    with pytest.raises(ValueError, match="above 0 and below 1, not '2'"), client_faults():
        made.left(40, "2")


FAULTS = {
    "an unknown option": ({"strategy": "uniform", "budgets": 0.5}, "Did you mean 'budget'?"),
    "no strategy": ({"budget": 0.5}, "name no strategy"),
    "attention": ({"strategy": "fastadasp-dense"}, "cannot be served: recipe 'fastadasp-dense' needs queries and keys"),
    "a budget of the prompt": ({"strategy": "uniform", "budget": "flops=0.5"}, "depends on the whole prompt"),
    "unknown positions": ({"strategy": "uniform", "positions": "evenly"}, "positions"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_cannot_be_served_is_said(case: str) -> None:
    options, words = FAULTS[case]
    with pytest.raises(StrategyError) as caught:
        serving(options, 4)
    assert words in str(caught.value)


def test_families_are_chosen_by_architectures_of_our_own() -> None:
    options = {"strategy": "uniform"}
    made = overrides(options, "Qwen2AudioForConditionalGeneration")
    assert made == {"architectures": ["FastAdaSPQwen2AudioForConditionalGeneration"], "fastadasp": options}
    with pytest.raises(StrategyError, match="cannot be served with a strategy"):
        overrides(options, "LlamaForCausalLM")


def test_positions_of_short_clips() -> None:
    clips = [Clip(range(2, 5), 6), Clip(range(6, 7), 4)]
    made, ahead = rows(9, clips)
    assert made.tolist() == [[0, 1, 2, 4, 6, 8, 9, 13, 14]] * 3
    assert ahead == 15 - 9
    waiting, same = rows(9, clips, wait=True)
    assert waiting[1].tolist() == [0, 1, 2, 2, 2, 8, 9, 13, 14]
    assert same == ahead
    compact, none = rows(5, [Clip(range(1, 4), 3)])
    assert (compact[0].tolist(), none) == (list(range(5)), 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_places_travel_in_any_float_type(dtype: torch.dtype) -> None:
    places = torch.tensor([0, 1, 255, 256, 257, 1499, 40_000])
    packed = pack(torch.randn(7, 3).to(dtype), places)
    assert packed.shape == (7, 5)
    assert torch.equal(places_of([packed[:4], packed[4:]]), places)


def test_a_server_forgets_the_clips_that_nobody_asks_for() -> None:
    known = Counts(2)
    known.put("a", 1), known.put("b", 2)
    assert known.get("a") == 1
    known.put("c", 3)
    assert (known.get("b"), known.get("a"), known.get("c"), len(known)) == (None, 1, 3, 2)
    known.put("a", 4), known.put("d", 5)
    assert (known.get("a"), known.get("c")) == (4, None)


def test_importing_fastadasp_imports_no_engine() -> None:
    code = "import sys, fastadasp, fastadasp.serving.options, fastadasp.serving.vllm; print('vllm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_page_names_the_recipes_that_can_be_served() -> None:
    found = []
    for file in sorted((ROOT / "strategies").glob("*.toml")):
        with contextlib.suppress(StrategyError):
            serving({"strategy": file.stem}, 4)
            found.append(file.stem)
    page = (ROOT / "docs" / "serving.md").read_text()
    named = re.search(r"these can\s+be\s+served:\s+(.*?)\.\s+The", page, re.DOTALL)
    assert named is not None
    assert re.findall(r"`([^`]+)`", named[1]) == found


def test_vllm_is_imported_in_one_room() -> None:
    for file in (ROOT / "fastadasp").rglob("*.py"):
        if "serving/vllm" not in file.as_posix():
            assert not re.search(r"^\s*(from|import) vllm\b", file.read_text(), re.MULTILINE), file
