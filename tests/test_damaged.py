"""Damaged and hostile files: recordings, model folders, kept features, plugins. Each ends in one sentence."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

import fastadasp
from fastadasp.audio import check_length, read_audio
from fastadasp.contracts.task import Example
from fastadasp.demo import model_path
from fastadasp.errors import DataError, ModelError, PluginError
from fastadasp.inference.clips import prepare
from fastadasp.inference.features import FeatureCache
from fastadasp.inference.load import LoadedModel, check_folder, load_model
from fastadasp.strategy import get_registry
from fastadasp.transcribe.windows import windows

SOUND = (0.3 * np.sin(np.arange(8000) / 7)).astype(np.float32)


def wav(path: Path, rate: int) -> Path:
    """A WAV file whose header says `rate`."""
    soundfile.write(path, SOUND, 16_000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("rate", [1, 2**31 - 1])
def test_rates_that_no_recording_has(rate: int, tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", rate)
    for use in (read_audio, lambda p: check_length(p, 30.0), lambda p: list(windows(p, 16_000, 30.0))):
        with pytest.raises(DataError, match=f"{rate} samples a second"):
            use(path)


def test_a_header_that_claims_too_much(tmp_path: Path) -> None:
    """2**36 samples would be 256 GiB."""
    path = tmp_path / "a.flac"
    soundfile.write(path, SOUND, 16_000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the upper four bits of the number of samples
    path.write_bytes(content)
    assert soundfile.info(path).frames > 2**34
    with contextlib.suppress(DataError):
        assert len(read_audio(path)) <= len(SOUND)
    with pytest.raises(DataError):
        check_length(path, 30.0)
    with contextlib.suppress(DataError):
        assert sum(len(window.wave) for window in windows(path, 16_000, None)) <= len(SOUND)


def test_many_channels_and_a_high_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.repeat(SOUND[:, None], 8, axis=1), 192_000)
    assert len(read_audio(path)) == pytest.approx(len(SOUND) / 12, abs=1)


@pytest.mark.parametrize("name", ["a" * 300 + ".wav", "nul\0.wav"])
def test_names_that_no_file_has(name: str) -> None:
    with pytest.raises(DataError, match="no recording"):
        read_audio(Path(name))
    with pytest.raises(DataError, match="no recording"):
        list(windows(Path(name), 16_000, 30.0))


GARBAGE = {
    "no text": b"\xff\xfe\x00",
    "deep": b"[" * 50_000,
    "digits": b'{"model_type": ' + b"9" * 5000 + b"}",
    "a list": b"[]",
    "architecture is a function": {"architectures": ["pipeline"]},
    "architecture is a module": {"architectures": ["utils"]},
    "audio token is text": {"audio_token_index": "x", "audio_token_id": "x"},
    "no heads": {"text_config": {"model_type": "qwen2", "num_attention_heads": 0}},
    "layers below none": {"text_config": {"model_type": "qwen2", "num_hidden_layers": -3}},
    "text configuration is a number": {"text_config": 5},
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_in_config(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_path(), folder)
    config, garbage = folder / "config.json", GARBAGE[name]
    if isinstance(garbage, dict):
        config.write_text(json.dumps(json.loads(config.read_text()) | garbage))
    else:
        config.write_bytes(garbage)
    with pytest.raises(ModelError) as fault:
        load_model(str(folder), "cpu", "float32")
    assert len(str(fault.value).splitlines()) == 1


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_no_model(path: str) -> None:
    with pytest.raises(ModelError, match="empty"):
        check_folder(path)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(str(model_path()), "cpu", "float32")


def example(path: Path, instruction: str = "Transcribe the speech into text.") -> Example:
    return Example("a", path, instruction, "")


def test_an_instruction_with_the_sign_for_audio(loaded: LoadedModel, tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", 16_000)
    with pytest.raises(DataError, match=r"<\|AUDIO\|>"):
        prepare(loaded, [example(path, "What is <|AUDIO|> about?")], 1, lambda n: None)


def test_damaged_features_are_made_anew(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path / "cache"))
    path = wav(tmp_path / "a.wav", 16_000)
    cache = FeatureCache(loaded)
    assert cache.get(path) is None
    tokens = torch.randn(3, 4)
    cache.put(path, tokens)
    found = cache.get(path)
    assert found is not None
    assert torch.equal(found, tokens)
    (kept,) = (tmp_path / "cache").rglob("*.safetensors")
    for other in (tokens[:2], tokens * float("nan"), tokens + 1, tokens[0]):
        save_file({"tokens": other.contiguous()}, kept)
        assert cache.get(path) is None
    kept.write_bytes(b"no tensors")
    assert cache.get(path) is None
    cache.put(path, tokens)
    assert load_file(kept)["tokens"].shape == (3, 4)


def test_a_recording_that_is_replaced_while_it_is_encoded_is_not_kept(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path / "cache"))
    path = wav(tmp_path / "a.wav", 16_000)
    cache = FeatureCache(loaded)
    assert cache.get(path) is None
    wav(path, 8_000)
    cache.put(path, torch.randn(3, 4))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert cache.get(path) is None


@pytest.mark.parametrize("kind", [BaseException, GeneratorExit, SystemExit, RecursionError])
def test_a_plugin_that_raises_anything_is_a_problem_of_its_own(kind: type[BaseException]) -> None:
    plugin = ModuleType("hostile_plugin")

    @fastadasp.hookimpl
    def fastadasp_scorers() -> list[type]:
        raise kind("x")

    plugin.fastadasp_scorers = fastadasp_scorers  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match=kind.__name__):
        get_registry().register(plugin)
    assert get_registry().get("strategy", "weighted")


def test_an_interrupt_is_no_problem_of_a_plugin() -> None:
    plugin = ModuleType("interrupted_plugin")

    @fastadasp.hookimpl
    def fastadasp_scorers() -> list[type]:
        raise KeyboardInterrupt

    plugin.fastadasp_scorers = fastadasp_scorers  # type: ignore[attr-defined]
    try:
        with pytest.raises(KeyboardInterrupt):
            get_registry().register(plugin)
    finally:
        get_registry().unregister("interrupted_plugin")


def test_markup_and_colours_in_what_a_plugin_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastadasp.cli import plugins
    from fastadasp.registry.plugin import PluginRecord
    from fastadasp.registry.registry import Registry

    record = PluginRecord("[/red]", "x[/b]", "[bold]1", "m", (), (), "broken", "\x1b[31m[/red] fault")
    monkeypatch.setattr(Registry, "plugins", lambda self: [record])
    plugins.plugins()
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for text in ("[/red]", "x[/b]", "[bold]1"):
        assert text in out


def test_a_file_that_is_no_zip_is_no_checkpoint(tmp_path: Path) -> None:
    from fastadasp.convert.source import load_pickled

    path = tmp_path / "final.pt"
    path.write_bytes(b"hello" * 100)
    with pytest.raises(ModelError, match="cannot be read as a checkpoint") as fault:
        load_pickled(path)
    assert "torch.load" not in str(fault.value)


@pytest.mark.parametrize("kind", ["pipe", "no text", "no JSON"])
def test_a_kept_choice_of_a_layer_that_cannot_be_read_is_made_anew(kind: str, tmp_path: Path) -> None:
    import os

    from fastadasp.selection.cache import read_entry

    path = tmp_path / "choice.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"\xff" if kind == "no text" else b"[" * 50_000)
    said: list[str] = []
    assert read_entry(path, {}, said.append) is None
    assert len(said) == 1
    assert "made anew" in said[0]
