"""The commands of the documentation: each is one that exists, with options that it has, and those that can do run.

The README's are run by tests/test_readme.py.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import soundfile
import torch
import transformers
import typer
from command import run
from test_strangers import build_without_network, pip

from fastadasp.cli.app import app
from fastadasp.demo import data_path, model_path

DOCS = Path(__file__).parents[1] / "docs"

# Why a command that begins so is not run here. It is still held to commands and options that exist.
NOT_RUN = {
    "fastadasp convert": "needs checkpoints of gigabytes; tests/test_convert*.py run it on small ones",
    "fastadasp compare --model": "needs a checkpoint of gigabytes; tests/test_convert_*.py run it on small ones",
    "fastadasp select-layer": "minutes for each; tests/test_selection.py runs it on fewer clips",
    "fastadasp compare --strategies all": "an hour; tests/test_lines.py makes the grid of all strategies",
    "fastadasp compare --strategies affinity-pooling,visionzip-encoder": "minutes; as for all strategies",
    "fastadasp compare --strategies weighted,prune,random,fastadasp-dense --tasks asr,er --limit 75": (
        "many minutes, with a limit of its own; as for all strategies"
    ),
    "fastadasp compare --strategies affinity-pooling,weighted": "tests/test_content.py has fewer clips",
    "fastadasp compare --preset field": "an hour; tests/test_presets.py makes their grids",
    "fastadasp ablate": "minutes, and a cluster for Ray; tests/test_ablate.py runs such studies on fewer clips",
    "fastadasp bench --preset": "hours, and a GPU; tests/test_bench.py runs presets at small sizes",
    "fastadasp bench --shape": "minutes; tests/test_bench.py runs the smallest shape",
    "fastadasp compare --strategies weighted,prune,mine": "the page own-method.md runs the like",
    "fastadasp compare --strategies weighted,prune,loud": "the guide's package is tested by tests/test_docs.py",
    "fastadasp compare --strategies weighted,prune --tasks asr,er": "tests/test_report.py runs report.md in its order",
    "fastadasp report": "tests/test_report.py runs report.md in its order",
    "fastadasp inspect": "tests/test_report.py runs report.md in its order",
    "fastadasp compare --engine vllm": "needs vLLM; tests/serving/test_vllm_compare.py runs it",
    "fastadasp bench --engine vllm": "needs vLLM; tests/serving/test_vllm_server.py measures a server",
    "fastadasp submit": "tests/test_leaderboard.py runs it on a run of its own",
    "fastadasp leaderboard": "tests/test_leaderboard.py runs it on submissions of its own",
    "fastadasp compare --tasks librispeech=FOLDER": "tests/test_packs.py runs it on recordings of LibriSpeech",
    "fastadasp compare --tasks transcription=clips.csv --model": "needs a checkpoint of gigabytes",
    "fastadasp serve": "needs vLLM; tests/serving/test_vllm_server.py runs it",
    "fastadasp new-plugin": "run as part of own-method.md, below",
}
OWN = "own-method.md"
TOUR = "tour.md"  # tests/test_readme.py runs its commands


def commands(page: Path) -> list[str]:
    """A page's indented command lines; lines that end with a backslash go on."""
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    found = re.findall(r"^ {4}(fastadasp [a-z].*)$", text, re.MULTILINE)
    return [" ".join(line.split("#")[0].split(">")[0].split()) for line in found]


ALL = [(page.name, command) for page in sorted(DOCS.glob("*.md")) for command in commands(page)]
RUN = [
    c for name, c in dict.fromkeys(ALL) if name not in (OWN, TOUR) and not any(c.startswith(start) for start in NOT_RUN)
]


def test_reasons_are_for_commands_that_there_are() -> None:
    assert len(RUN) >= 6
    assert not [start for start in NOT_RUN if not any(command.startswith(start) for _, command in ALL)]


@pytest.mark.parametrize(("page", "command"), dict.fromkeys(ALL))
def test_commands_and_options_exist(page: str, command: str) -> None:
    _, name, *words = shlex.split(command)
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert name in known, page
    known[name].make_context(name, words)  # raises where an option is unknown or a value has the wrong form


@pytest.mark.parametrize("command", RUN)
def test_commands_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    wave, rate = soundfile.read(next(data_path().glob("audio/number-*.ogg")))
    for name in ("talk.mp3", "interview.flac"):
        soundfile.write(name, wave, rate)
    Path("clips.jsonl").write_text('{"audio_filepath": "talk.mp3", "reference": "one two three"}\n')
    Path("clips.csv").write_text("audio,text,mood\ntalk.mp3,one two three,calm\n")
    Path("mood.toml").write_text(re.findall(r"```toml\n(.*?)```", (DOCS / "tasks.md").read_text(), re.DOTALL)[0])
    words = shlex.split(command)[1:]
    if words[0] == "compare" and "--limit" not in words:  # the same, on one clip
        words = [*(word for word in words if word != "--whole"), "--limit", "1"]
    code, told = run(*words)
    assert code == 0, told


def test_the_start_page_shows_the_manifest_that_is_run() -> None:
    page = (DOCS / "index.md").read_text(encoding="utf-8")
    assert '{"audio_filepath": "talk.mp3", "reference": "one two three"}' in page


def test_your_own_method_from_nothing_to_a_row(tmp_path: Path) -> None:
    """The lines of own-method.md one after another, its files put in place where it says so, in a fresh environment."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    (own,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    places = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (own / "rest.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in places))
    environment = os.environ | {"FASTADASP_CACHE": str(tmp_path / "cache")}

    page = (DOCS / OWN).read_text(encoding="utf-8")
    steps = re.findall(r"^Replace `([^`]+)`.*?^```\w+\n(.*?)^```$|^ {4}(\S[^\n]*)$", page, re.MULTILINE | re.DOTALL)
    ran, folder, shown = [], tmp_path, ""
    for file, content, line in steps:
        if file:
            assert (folder / file).is_file(), file
            (folder / file).write_text(content, encoding="utf-8")
            continue
        words = shlex.split(line)
        if words[0] == "cd":
            folder /= words[1]
            continue
        if words[0] == "pip":
            assert words[1:] == ["install", "-e", ".[test]"]
            pip("--python", python, "install", "-q", "--no-deps", *build_without_network(), "-e", ".", cwd=folder)
            continue
        if words[:2] in (["fastadasp", "compare"], ["fastadasp", "ablate"]):
            words += ["--limit", "2"]
        start = {"fastadasp": ["-m", "fastadasp"], "pytest": ["-m", "pytest"]}[words[0]]
        done = subprocess.run(
            [python, *start, *words[1:]], capture_output=True, text=True, cwd=folder, env=environment, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        ran.append(words[:2])
        shown += done.stdout
    assert [words[1] for words in ran if len(words) > 1] == ["new-plugin", "plugins", "compare", "ablate"]
    assert ["pytest"] in ran
    assert re.search(r"^ *mine +0\.5 ", shown, re.MULTILINE)


def test_the_python_of_the_start_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.DOTALL)
    frames = torch.zeros(1, 3000, dtype=torch.int64)
    frames[:, :400] = 1
    tokenizer = transformers.AutoProcessor.from_pretrained(model_path()).tokenizer
    sound = "<|audio_bos|>" + "<|AUDIO|>" * 100 + "<|audio_eos|>"
    inputs = {
        **tokenizer(f"{sound}Transcribe the numbers.<|answer|>", return_tensors="pt"),
        "input_features": torch.randn(1, 80, 3000),
        "feature_attention_mask": frames,
        "max_new_tokens": 2,
    }
    exec(compile(block, "docs/index.md", "exec"), {"folder": model_path(), "inputs": inputs})
    assert capsys.readouterr().out == "50\n"
