"""The command line as a person uses it: right and wrong input, by subprocess."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command import run

from fastadasp.demo import model_path


def fastadasp(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from fastadasp.cli.app import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def in_process(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a small comparison, without the start of another process."""
    with contextlib.chdir(folder):
        return run("compare", "--tasks", "er", "--limit", "1", "--output", str(folder / "out"), *arguments)


def test_help_is_quick_and_imports_no_torch() -> None:
    code = "import sys, fastadasp.cli.app; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        result = fastadasp("--help")
        times.append(time.perf_counter() - begin)
    assert result.returncode == 0
    assert "compare" in result.stdout
    assert min(times) < 2  # 0.1 s where nothing else runs; a loaded machine may take longer


def test_compare_prints_a_table_and_writes_its_folder(tmp_path: Path) -> None:
    result = fastadasp(
        "compare",
        "--strategies",
        "weighted,prune,random",
        "--budgets",
        "0.5",
        "--limit",
        "2",
        "--output",
        "out",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    for word in ("full", "weighted", "prune", "random", "WER", "accuracy", "FLOPs removed", "results: out"):
        assert word in result.stdout
    assert "\x1b" not in result.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "results.jsonl",
        "predictions.jsonl",
        "statistics.jsonl",
        "times.jsonl",
        "run.json",
        "table.md",
        "times.md",
        "store",
    }


def test_json_prints_nothing_else(tmp_path: Path) -> None:
    result = fastadasp(
        "compare", "--strategies", "prune", "--tasks", "er", "--budgets", "0.5", "--limit", "2", "--json", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    cells = json.loads(result.stdout)
    assert [cell["strategy"] for cell in cells] == ["full", "prune"]


def test_a_preset_prints_our_table_and_then_the_papers(tmp_path: Path) -> None:
    result = fastadasp(
        "compare", "--preset", "paper-dense", "--limit", "1", "--tasks", "asr,er", "--output", "out", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    ours, _, papers = result.stdout.partition("the paper's figures for WavLLM, not ours")
    assert "fastadasp-decay" in ours
    assert "flops=0.5" in ours
    assert "185.79" not in ours
    assert "185.79" in papers
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.index("| fastadasp-decay | flops=0.5 |") < table.index("not ours") < table.index("185.79")
    arguments = json.loads((tmp_path / "out" / "run.json").read_text())["arguments"]
    assert (arguments["preset"], arguments["tasks"]) == ("paper-dense", ["asr", "er"])
    assert arguments["budgets"] == [f"flops={x}" for x in (0.1, 0.2, 0.3, 0.4, 0.5)]
    left_out = [
        m for p in json.loads(fastadasp("presets", "--json").stdout)[:1] for m, s in p["methods"].items() if not s
    ]
    assert all(title in result.stderr for title in left_out)


def test_presets_are_listed() -> None:
    plain, as_json = fastadasp("presets"), json.loads(fastadasp("presets", "--json").stdout)
    assert [(row["name"], row["tasks"]) for row in as_json] == [
        ("paper-dense", ["asr", "st"]),
        ("paper-sparse", ["er", "sqa"]),
        ("sa-map", ["asr", "er"]),
        ("field-flops", ["asr", "er"]),
        ("field-kv", ["asr"]),
    ]
    assert as_json[0]["methods"]["FastAdaSP constant"] == "fastadasp-dense"
    assert "paper-dense" in plain.stdout


def test_a_budget_out_of_reach_fails_its_cell_with_the_range(tmp_path: Path) -> None:
    arguments = ("--strategies", "weighted", "--tasks", "er", "--budgets", "flops=0.1,0.9", "--limit", "2")
    result = fastadasp("compare", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert "failed: weighted flops=0.9 on er: StrategyError: 2 of 2 clips cannot meet the budget" in result.stderr
    assert "removes 0 to 0." in result.stderr
    assert "flops=0.1" in result.stdout


@pytest.mark.parametrize("command", ["strategies", "plugins", "tasks", "models"])
def test_listings_name_their_origin(command: str) -> None:
    plain, as_json = fastadasp(command), fastadasp(command, "--json")
    assert plain.returncode == as_json.returncode == 0
    assert "fastadasp" in plain.stdout
    assert len(json.loads(as_json.stdout)) >= 5


def test_models_say_which_work_and_why_others_do_not() -> None:
    rows = {row["name"]: row for row in json.loads(fastadasp("models", "--json").stdout)}
    assert (rows["qwen2_audio"]["usable"], rows["qwen2_audio"]["installed"]) == (True, True)
    assert (rows["qwen2_audio"]["reason"], rows["whisper"]["usable"]) == (None, False)
    assert "cross-attention" in rows["whisper"]["reason"]
    assert (rows["voxtral"]["encoder_attention"], rows["voxtral"]["encoder_reason"]) == (True, None)
    assert (rows["vibevoice_asr"]["encoder_attention"], rows["vibevoice_asr"]["encoder_reason"]) == (
        False,
        "their encoder has no attention",
    )
    plain = fastadasp("models").stdout
    assert "no: it is an encoder-decoder" in plain


def test_strategies_say_what_they_need() -> None:
    needs = {row["name"]: row["needs"] for row in json.loads(fastadasp("strategies", "--json").stdout)}
    assert (needs["weighted"], needs["random-prune"]) == (["attention", "order"], [])
    assert needs["speechprune"] == ["order", "text"]
    plain = fastadasp("strategies").stdout
    assert "needs" in plain
    assert "window-similarity" in plain  # no name is broken up


WRONG = {
    "unknown strategy": (["--strategies", "weighed"], "Did you mean 'weighted'"),
    "unknown task": (["--tasks", "asrr"], "Did you mean 'asr'"),
    "unknown device": (["--device", "gpu"], "device is one of auto, cpu, cuda, not 'gpu'"),
    "budget 0": (["--budgets", "0"], "above 0 and below 1, not '0'"),
    "budget 1": (["--budgets", "1"], "above 0 and below 1, not '1'"),
    "negative budget": (["--budgets=-0.3"], "above 0 and below 1, not '-0.3'"),
    "text for a budget": (["--budgets", "half"], "above 0 and below 1, not 'half'"),
    "text after a prefix": (["--budgets", "flops=0.1,x"], "budget flops is the fraction removed"),
    "unknown kind of budget": (["--budgets", "flop=0.1"], "Did you mean 'flops'?"),
    "unknown preset": (["--preset", "paper"], "unknown preset 'paper'. Did you mean"),
    "no budget": (["--budgets", ","], "no budget given"),
    "no strategy": (["--strategies", ""], "no strategy given"),
    "missing model": (["--model", "./nothing"], "there is no model folder ./nothing"),
    "unknown dtype": (["--dtype", "float8"], "dtype is one of"),
    "limit 0": (["--limit", "0"], "at least 1, not 0"),
    "batch size 0": (["--batch-size", "0"], "at least 1, not 0"),
    "missing recipe": (["--strategies", "./none.toml"], "there is no recipe file './none.toml'"),
    "unknown field": (["--set", "shedule.name=decay"], "schedule"),
    "unknown parameter": (["--set", "layers.laier=3"], "layer"),
    "no such layer": (["--set", "layers.layer=99"], "start layer 99 does not exist"),
    "parts that do not fit": (["--set", "merger.name=drop"], "reads importance"),
    "missing manifest": (["--tasks", "asr=none.jsonl"], "there is no manifest none.jsonl"),
    "unknown option": (["--frobnicate"], "No such option"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_message_and_exit_code_2(case: str, tmp_path: Path) -> None:
    arguments, message = WRONG[case]
    result = fastadasp("compare", "--limit", "2", "--output", "out", *arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = fastadasp("compare", "--limit", "1", "--model", "empty", cwd=tmp_path)
    assert (result.returncode, "it has no config.json" in result.stderr) == (2, True)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text('{"model_type": "llama"}')
    result = fastadasp("compare", "--limit", "1", "--model", "./text", cwd=tmp_path)
    assert (result.returncode, "model of type 'llama'" in result.stderr) == (2, True)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_bytes((model_path() / "config.json").read_bytes())
    result = fastadasp("compare", "--limit", "1", "--model", "./half", cwd=tmp_path)
    assert (result.returncode, "cannot be loaded" in result.stderr) == (2, True)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("fault", ["truncated", "other shapes", "no architecture"])
def test_models_that_are_damaged(fault: str, tmp_path: Path) -> None:
    shutil.copytree(model_path(), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    if fault == "truncated":
        weights = next((tmp_path / "model").glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:50_000])
        message = "./model cannot be loaded: Error while deserializing header"
    elif fault == "other shapes":
        config["text_config"]["hidden_size"] //= 2
        message = "its weights have other shapes than its config.json"
    else:
        del config["architectures"]
        message = "its config.json names no architecture"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    code, stderr = in_process(tmp_path, "--model", "./model")
    assert (code, stderr.count("error: ")) == (2, 1)
    assert message in stderr


def test_a_hub_id_without_network_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, stderr = in_process(tmp_path, "--model", "nobody/nothing")
    assert code == 2
    assert stderr == "error: nobody/nothing cannot be loaded: the model hub cannot be reached and it is not cached\n"


def test_recipes_with_faults(tmp_path: Path) -> None:
    (tmp_path / "typo.toml").write_text('name = "typo"\nselekt = "random"\nmerger = "runs"\n')
    result = fastadasp("compare", "--strategies", "typo.toml", "--limit", "1", cwd=tmp_path)
    assert result.returncode == 2
    assert "selekt" in result.stderr
    assert "select" in result.stderr
    (tmp_path / "broken.toml").write_text("name = \n")
    result = fastadasp("compare", "--strategies", "broken.toml", "--limit", "1", cwd=tmp_path)
    assert (result.returncode, "not valid TOML" in result.stderr) == (2, True)


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = fastadasp("compare", "--limit", "1", "--output", "x" * 300, cwd=tmp_path)
    assert (result.returncode, "cannot be written: File name too long" in result.stderr) == (2, True)
    for place in ("file", "file/inside"):
        result = fastadasp("compare", "--limit", "1", "--output", place, cwd=tmp_path)
        assert (result.returncode, "cannot be made" in result.stderr) == (2, True)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "results.jsonl").write_text("kept")
    result = fastadasp("compare", "--limit", "1", "--output", "old", cwd=tmp_path)
    assert (result.returncode, "already holds a run" in result.stderr) == (2, True)
    assert (tmp_path / "old" / "results.jsonl").read_text() == "kept"


def test_broken_recording_is_named_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "broken.flac").write_bytes(b"fLaC" + bytes(64))
    (tmp_path / "clips.jsonl").write_text('{"audio_filepath": "broken.flac", "reference": "one"}\n')
    result = fastadasp("compare", "--tasks", "asr=clips.jsonl", "--output", "out", cwd=tmp_path)
    assert result.returncode == 2
    assert "broken.flac cannot be read as audio" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("samples", "message"),
    [([], "is empty: it holds no samples"), ([0.0, float("nan")], "not finite"), ([0.0] * 31 * 16_000, "lasts 31.0 s")],
)
def test_unusable_recordings_leave_no_folder(samples: list[float], message: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", np.asarray(samples, np.float32), 16_000, subtype="FLOAT")
    (tmp_path / "clips.jsonl").write_text('{"audio_filepath": "clip.wav", "reference": "one"}\n')
    code, stderr = in_process(tmp_path, "--tasks", "asr=clips.jsonl")
    assert (code, stderr.count("\n")) == (2, 1)
    assert message in stderr
    assert not (tmp_path / "out").exists()


def test_a_task_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text('{"audio_filepath": "clip.wav", "reference": "one"}\n')
    code, stderr = in_process(tmp_path, "--tasks", "er,er=clips.jsonl")
    assert (code, "task 'er' is given twice" in stderr) == (2, True)


def test_no_column_is_cut_off(tmp_path: Path) -> None:
    """A long name and budget, where the output is narrower than the table."""
    long = ["--strategies", "fastadasp-dense", "--budgets", "ratio=0.0123456789"]
    result = fastadasp("compare", "--tasks", "er", "--limit", "1", *long, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "…" not in result.stdout
    assert {"fastadasp-dense", "ratio=0.0123456789", "decode"} <= set(result.stdout.split())


def test_ctrl_c_prints_what_is_finished(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [
        sys.executable,
        "-c",
        code + "from fastadasp.cli.app import main; main()",
        "compare",
        "--output",
        "out",
        "--tasks",
        "er",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    results = tmp_path / "out" / "results.jsonl"
    end = time.monotonic() + 240
    while not (results.exists() and results.stat().st_size) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 130, stderr
    assert "full" in stdout
    assert "cancelled; " in stderr
    assert "Traceback" not in stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "cancelled"
