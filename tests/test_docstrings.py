"""Every public name has an example in its docstring, and it runs."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest
import torch
import transformers

import fastadasp
from fastadasp.demo import data_path, model_path

NAMES = [
    name
    for name in fastadasp.__all__
    if callable(thing := getattr(fastadasp, name))
    and str(getattr(thing, "__module__", "")).startswith("fastadasp")
    and not (inspect.isclass(thing) and issubclass(thing, Exception))
]


@pytest.fixture(scope="module")
def at_hand() -> dict[str, object]:
    """What the examples speak of: a model, inputs for it, its folder and a recording."""
    model = transformers.Qwen2AudioForConditionalGeneration.from_pretrained(model_path(), dtype=torch.float32).eval()
    processor = transformers.AutoProcessor.from_pretrained(model_path())
    sound = "<|audio_bos|>" + "<|AUDIO|>" * 100 + "<|audio_eos|>"
    ids = processor.tokenizer(f"{sound}Transcribe the numbers.<|answer|>", return_tensors="pt").input_ids
    frames = torch.zeros(1, 3000, dtype=torch.int64)
    frames[:, :400] = 1
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "feature_attention_mask": frames}
    inputs["input_features"] = torch.zeros(1, 80, 3000)
    recording = sorted(data_path().glob("audio/number-*.ogg"))[0]
    names = {"model": model, "inputs": inputs, "model_folder": str(model_path()), "recording": recording}
    return {"fastadasp": fastadasp, "Path": Path, **names}


def test_there_are_names() -> None:
    assert len(NAMES) >= 28


@pytest.mark.parametrize("name", NAMES)
def test_its_example_runs(
    name: str, at_hand: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path / "cache"))
    text = inspect.getdoc(getattr(fastadasp, name)) or ""
    examples = doctest.DocTestParser().get_doctest(text, dict(at_hand), name, None, None)
    assert examples.examples, f"fastadasp.{name} has no example"
    said: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=said.append, clear_globs=False)
    assert outcome.failed == 0, "".join(said)
