"""`fastadasp export-embeddings`: the file holds what the engine would let into the decoder, and places of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import run
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fastadasp import DataError, RunError, load_strategy
from fastadasp.audio import read_audio
from fastadasp.demo import data_path, model_path
from fastadasp.demo.prompts import build_prompt
from fastadasp.inference.load import load_model
from fastadasp.serving.embeddings import read

pytestmark = pytest.mark.usefixtures("own_cache")

CLIPS = [str(path) for path in sorted(data_path().glob("audio/number-*.ogg"))[:3]]


def test_a_file_holds_features_places_and_counts(tmp_path: Path) -> None:
    whole, short = tmp_path / "whole.safetensors", tmp_path / "short.safetensors"
    assert run("export-embeddings", *CLIPS, "--output", str(whole))[0] == 0
    options = ("--strategy", "affinity-pooling", "--budget", "0.4", "--output", str(short))
    code, told = run("export-embeddings", *CLIPS, *options)
    assert code == 0, told
    full, left = read(whole), read(short)
    recipe = load_strategy("affinity-pooling", site="input", layers={"layer": 0}, budget=0.4)
    for before, after, made in zip(full, left, recipe.reduce([c.features for c in full], 4), strict=True):
        assert before.audio == after.audio
        assert before.tokens == after.tokens == len(before.features)
        assert len(after.features) == recipe.left(before.tokens, 4) < before.tokens
        assert torch.equal(before.places, torch.arange(before.tokens))
        assert torch.equal(after.places, made.places)
        assert torch.equal(after.features, made.features)
    assert [clip.audio for clip in left] == CLIPS
    assert f"{sum(c.tokens for c in full)} audio tokens became {sum(len(c.features) for c in left)}" in told
    with safe_open(short, framework="pt") as kept:
        about = kept.metadata()
        assert json.loads(about["strategy"])["budget"] == 0.4
        assert kept.get_tensor("counts").tolist() == [len(clip.features) for clip in left]


def test_answers_from_the_file_are_those_of_the_engine(tmp_path: Path) -> None:
    """A prompt with the file's embeddings at positions of its own answers as the strategy does with `compact` ones."""
    file = tmp_path / "clips.safetensors"
    assert run("export-embeddings", *CLIPS, "--strategy", "divprune", "--output", str(file))[0] == 0
    loaded = load_model(str(model_path()))
    recipe = load_strategy("divprune", site="input", layers={"layer": 0}, positions="compact")
    audio = loaded.processor.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    text = build_prompt("Transcribe the numbers.")
    for clip in read(file):
        wave = read_audio(Path(clip.audio), 16000)
        inputs = loaded.processor(text=[text], audio=[wave], sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode(), recipe.apply(loaded.model):
            made = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=24)
        ids = inputs["input_ids"][0]
        words = loaded.model.get_input_embeddings()(ids)
        at = int((ids == audio).nonzero()[0])
        prompt = torch.cat([words[:at], clip.features, words[at + clip.tokens :]])[None]
        with torch.inference_mode():
            other = loaded.model.generate(inputs_embeds=prompt, do_sample=False, max_new_tokens=24)
        assert other[0].tolist() == made[0, len(ids) :].tolist()


REFUSALS = {
    "a recipe that needs attention": ([*CLIPS, "--strategy", "fastadasp-dense"], "cannot be exported: recipe"),
    "a budget without a strategy": ([*CLIPS, "--budget", "0.5"], "name one with --strategy"),
    "no such file": (["nothing.wav"], "there is no recording nothing.wav"),
    "another format": ([*CLIPS, "--output", "clips.npz"], "ends in .safetensors"),
    "no such folder": ([*CLIPS, "--output", "no/where/clips.safetensors"], "there is no folder"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_exported_is_refused(case: str) -> None:
    given, words = REFUSALS[case]
    code, told = run("export-embeddings", *given)
    assert code == 2
    assert words in told


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    save_file({"features": torch.ones(1)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    for name in ("other", "broken", "missing"):
        with pytest.raises(DataError):
            read(tmp_path / f"{name}.safetensors")


def test_a_disk_that_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What writes tensors has an error of its own for it, of no common class."""
    from fastadasp.serving import embeddings

    def full(tensors: object, part: Path, **about: object) -> None:
        part.write_bytes(b"the beginning")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(embeddings, "save_file", full)
    clip = embeddings.Embedded("a.wav", torch.ones(2, 3), torch.arange(2), 4)
    with pytest.raises(RunError, match=r"x\.safetensors cannot be written: I/O error: No space left"):
        embeddings.write(tmp_path / "x.safetensors", [clip], {})
    assert list(tmp_path.iterdir()) == []
