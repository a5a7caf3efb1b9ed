"""The README and the tour do what they say: their commands and their Python run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import transformers

from fastadasp.demo import data_path, model_path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = README + (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
COMMANDS = [
    command.split("#")[0].strip()
    for line in re.findall(r"^    (.+)$", PAGES, re.MULTILINE)
    for command in line.split(" && ")
    if command.startswith("fastadasp ")
]


def test_the_readme_shows_commands() -> None:
    assert any(command.startswith("fastadasp compare --strategies weighted,prune,random") for command in COMMANDS)
    assert 'pip install -e ".[test]" && pytest' in README


def record(folder: Path) -> None:
    """The recording that the README speaks of."""
    wave, rate = soundfile.read(next(data_path().glob("audio/number-*.ogg")))
    soundfile.write(folder / "talk.mp3", wave, rate)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "path/to" not in c and "Qwen/" not in c])
def test_commands_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path / "cache"))
    record(tmp_path)
    words = shlex.split(command)[1:]
    if words[0] == "compare":  # the same, on fewer clips and at one budget
        words += ["--limit", "1", "--budgets", "0.5"]
    if words[0] == "bench":  # the same at a size that takes seconds
        words += ["--shape", "tiny", "--seconds", "10"]
    run = [sys.executable, "-c", "from fastadasp.cli.app import main; main()", *words]
    result = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGES, re.DOTALL)
    model = transformers.Qwen2AudioForConditionalGeneration.from_pretrained(model_path(), dtype=torch.float32).eval()
    sound = "<|audio_bos|>" + "<|AUDIO|>" * 100 + "<|audio_eos|>"
    tokenizer = transformers.AutoProcessor.from_pretrained(model_path()).tokenizer
    ids = tokenizer(f"{sound}Transcribe the numbers.<|answer|>", return_tensors="pt").input_ids
    frames = torch.zeros(1, 3000, dtype=torch.int64)
    frames[:, :400] = 1
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "input_features": torch.randn(1, 80, 3000),
        "feature_attention_mask": frames,
        "max_new_tokens": 4,
    }
    names: dict[str, object] = {"model": model, "inputs": inputs}
    for block in blocks:
        exec(block, names)
    layers = names["trace"].layers  # type: ignore[attr-defined]
    assert layers[-1].audio_tokens == 50
    assert layers[-1].kv_length == ids.shape[1] - 50
    assert names["tokens"].shape[1] > ids.shape[1]  # type: ignore[attr-defined]
