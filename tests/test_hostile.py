"""What comes from elsewhere is read, never run; what is reported survives the way between processes."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest

import fastadasp
from fastadasp import errors
from fastadasp.cli.terminal import tolerate_encoding
from fastadasp.demo import model_path
from fastadasp.inference.load import load_model

ROOT = Path(__file__).parents[1]
SOURCES = sorted(file for room in ("fastadasp", "plugins", "tools") for file in (ROOT / room).rglob("*.py"))


def test_no_call_lets_a_folder_bring_code() -> None:
    """Without ``trust_remote_code=False`` transformers asks on standard input, where ``yes |`` may answer."""
    calls = {
        (file, node.lineno): {word.arg: word.value for word in node.keywords}
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"
    }
    assert len(calls) >= 7
    trusting = [
        place
        for place, words in calls.items()
        if not (isinstance(value := words.get("trust_remote_code"), ast.Constant) and value.value is False)
    ]
    assert trusting == []


@pytest.mark.parametrize("part", ["processor_config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_a_model_folder_never_runs_code(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(model_path(), folder)
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Evil: pass\n")
    place = folder / part
    content = json.loads(place.read_text()) if place.is_file() else {}
    autos = ("AutoProcessor", "AutoTokenizer", "AutoFeatureExtractor", "AutoConfig", "AutoModel")
    content["auto_map"] = {auto: ["evil.Evil", None] if auto == "AutoTokenizer" else "evil.Evil" for auto in autos}
    content.pop("processor_class", None)  # with it, transformers does not ask
    place.write_text(json.dumps(content))
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n" * 100))
    with contextlib.suppress(errors.ModelError):
        load_model(str(folder), "cpu", "float32")
    assert not ran.exists()
    assert sys.stdin.tell() == 0  # nobody was asked


EXAMPLES = [
    errors.UnknownNameError("strategy", "weigted", ["weighted", "prune"], "see docs"),
    *(
        getattr(errors, name)("what was wrong")
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.FastAdaSPError) and name != "UnknownNameError"
    ),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickle(error: errors.FastAdaSPError) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.args == error.args
        assert vars(again) == vars(error)


OBJECTS = {
    "Budget": lambda: fastadasp.load_strategy("weighted", budget=0.5).budget,
    "Strategy": lambda: fastadasp.load_strategy("weighted", budget=0.5),
    "ManifestTask": lambda: fastadasp.ManifestTask("t", None, kind="dense", metric="wer", instruction="x"),
    "Example": lambda: fastadasp.Example("a", Path("a.wav"), "x", "y"),
    "Transcript": lambda: fastadasp.Transcript(Path("a.wav")),
    "DecoderShape": lambda: fastadasp.DecoderShape(4, 64, 4, 2, 16, 128),
    "component": lambda: fastadasp.load_strategy("weighted").merger,
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_survive_pickle(name: str) -> None:
    value = OBJECTS[name]()
    again = pickle.loads(pickle.dumps(value))
    assert type(again) is type(value)
    if name != "ManifestTask":  # tasks have no equality of their own
        assert again == value
    else:
        assert vars(again).keys() == vars(value).keys()
        assert again.settings == value.settings


def test_stdout_that_lacks_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    tolerate_encoding()
    print("schön \udcff")
    narrow.flush()
    assert narrow.buffer.getvalue() == b"sch?n ?\n"  # type: ignore[attr-defined]
