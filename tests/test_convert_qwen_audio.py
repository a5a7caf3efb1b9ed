"""Qwen-Audio, converted: the same numbers, tokens and prompts as its authors' code gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import original_qwen_audio as original
import pytest
import regex
import torch
from command import compare
from tiny import error
from torch import Tensor

from fastadasp.convert.kinds import convert
from fastadasp.inference.load import load_model

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen-audio")
    original.write(folder / "source")
    convert("qwen-audio", folder / "source", folder / "model")
    return folder


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Any:
    return load_model(str(checkpoint / "model"), "cpu")


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    """A prompt with two clips of 60 and 37 of 100 frames."""
    config = original.configuration()
    generator = torch.Generator().manual_seed(5)
    pad, start = original.FIRST_SPECIAL + 208, original.AUDIO_START
    mel, frames = torch.randn(2, 8, 100, generator=generator), (60, 37)
    clips = [[start, *[pad] * (((n - 1) // 2 + 1) // 2), start + 1] for n in frames]
    words = torch.randint(300, (3, 6), generator=generator).tolist()
    ids = torch.tensor([*words[0], *clips[0], *words[1], *clips[1], *words[2]])
    return {"config": config, "mel": mel, "frames": frames, "ids": ids}


@torch.no_grad()
def test_encoder_projector_decoder_and_logits_are_the_originals(loaded: Any, inputs: dict[str, Any]) -> None:
    """In a batch whose longest clip fills the window, as the original computes it then."""
    config, ids, frames = inputs["config"], inputs["ids"], inputs["frames"]
    weights = original.weights(config)
    clips = [original.encoder(weights, config, mel, n) for mel, n in zip(inputs["mel"], frames, strict=True)]
    entered = original.embed(weights, config, ids, clips)
    states, logits = original.decoder(weights, config, entered)

    model = loaded.model
    feature_mask = (torch.arange(100) < torch.tensor(frames).unsqueeze(1)).long()
    seen: list[Tensor] = []
    handles = [
        model.model.multi_modal_projector.register_forward_hook(lambda _m, _a, out: seen.append(out)),
        model.model.language_model.register_forward_pre_hook(
            lambda _m, _a, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
        ),
        model.model.language_model.register_forward_hook(lambda _m, _a, out: seen.append(out[0])),
    ]
    out = model(
        input_ids=ids.unsqueeze(0),
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        input_features=inputs["mel"],
        feature_attention_mask=feature_mask,
    )
    for handle in handles:
        handle.remove()
    projected, embeds, final = seen
    for row, clip in zip(projected, clips, strict=True):
        assert error(row[: len(clip)], clip) <= 1e-5
    assert error(embeds[0], entered) <= 1e-5
    assert error(final[0], states) <= 1e-5
    assert error(out.logits[0], logits) <= 1e-5


@torch.no_grad()
def test_a_clip_alone_is_the_originals_where_its_window_ends_with_it(loaded: Any, inputs: dict[str, Any]) -> None:
    """Alone, the original cuts the window after the clip, so that its convolutions see zeros there."""
    config, frames = inputs["config"], 60
    weights = original.weights(config)
    mel = inputs["mel"][:1].clone()
    mel[..., frames:] = 0
    expected = original.encoder(weights, config, mel[0, :, :frames], frames)
    start, pad = original.AUDIO_START, original.FIRST_SPECIAL + 208
    seen: list[Tensor] = []
    projector = loaded.model.model.multi_modal_projector
    handle = projector.register_forward_hook(lambda _m, _a, out: seen.append(out.reshape(-1, 32)))
    loaded.model(
        input_ids=torch.tensor([[start, *[pad] * len(expected), start + 1]]),
        input_features=mel,
        feature_attention_mask=(torch.arange(100) < frames).long().unsqueeze(0),
    )
    handle.remove()
    assert error(seen[0][: len(expected)], expected) <= 1e-5


@torch.no_grad()
def test_generation_continues_as_the_original_does(loaded: Any, inputs: dict[str, Any]) -> None:
    config, ids = inputs["config"], inputs["ids"]
    weights = original.weights(config)
    clips = [original.encoder(weights, config, m, n) for m, n in zip(inputs["mel"], inputs["frames"], strict=True)]
    said = ids
    for _ in range(5):
        _, logits = original.decoder(weights, config, original.embed(weights, config, said, clips))
        said = torch.cat([said, logits[-1:].argmax(-1)])
    tokens = loaded.model.generate(
        input_ids=ids.unsqueeze(0),
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        input_features=inputs["mel"],
        feature_attention_mask=(torch.arange(100) < torch.tensor(inputs["frames"]).unsqueeze(1)).long(),
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=None,
    )
    assert tokens[0].tolist() == said.tolist()


def test_no_code_of_the_checkpoint_is_needed(checkpoint: Path, loaded: Any) -> None:
    assert type(loaded.model).__module__.startswith("transformers.")
    assert "auto_map" not in json.loads((checkpoint / "model" / "config.json").read_text())
    assert not list((checkpoint / "model").glob("*.py"))
    assert loaded.model.config.text_config.max_position_embeddings == 2048


PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    "text",
    [
        "the speech of the audio",
        "Transcribe the numbers, 1234 of them!\n\n  thththe  in\tthe",
        "\u4f60\u597d, \u00fcber e\u0301t\u00e9 \U0001f600 aaaaaaaaa",
        "it's the audio's text; \r\n   isn't it?",
    ],
)
def test_tokens_are_tiktokens(loaded: Any, text: str) -> None:
    import unicodedata

    known, expected = original.ranks(), []
    for piece in regex.findall(PATTERN, unicodedata.normalize("NFC", text)):
        pieces = original.merge([bytes([byte]) for byte in piece.encode()], known)
        expected += [known[p] for p in ([piece.encode()] if piece.encode() in known else pieces)]
    tokenizer = loaded.processor.tokenizer
    assert tokenizer(text)["input_ids"] == expected
    assert tokenizer.decode(expected) == unicodedata.normalize("NFC", text)


def test_special_tokens_have_the_released_ids(loaded: Any) -> None:
    """Distances from <|endoftext|>, which is 151643 in the released checkpoint."""
    ids = loaded.processor.tokenizer.convert_tokens_to_ids
    first = ids("<|endoftext|>")
    released = {
        "<|im_start|>": 151644,
        "<|im_end|>": 151645,
        "<|extra_204|>": 151850,
        "[[[AUDIO:modality]]]": 151851,
        "<|startoftranscript|>": 151852,
        "<|0.00|>": 151871,
        "<|30.00|>": 154871,
        "<audio>": 155163,
        "</audio>": 155164,
    }
    assert {token: ids(token) - first + 151643 for token in released} == released


def test_prompts_are_the_originals(loaded: Any) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "audio", "audio": ""}, {"type": "text", "text": "What is said?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Nothing."}]},
        {"role": "user", "content": [{"type": "text", "text": "And here? "}, {"type": "audio", "audio": ""}]},
    ]
    text = loaded.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    clip = "<audio>[[[AUDIO:modality]]]</audio>\n"
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\nAudio 1:{clip}What is said?<|im_end|>\n"
        "<|im_start|>assistant\nNothing.<|im_end|>\n"
        f"<|im_start|>user\nAnd here? Audio 1:{clip}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    made = loaded.processor(text=[text], audio=[np.zeros(16000, np.float32), np.zeros(8000, np.float32)])
    ids = made["input_ids"][0]
    runs = [list(ids).count(original.FIRST_SPECIAL + 208), list(ids).count(original.AUDIO_START)]
    assert runs == [25 + 12, 2]
    settings = loaded.model.generation_config
    assert settings.eos_token_id == [original.FIRST_SPECIAL + i for i in (0, 2, 1)]
    assert (settings.top_p, settings.max_new_tokens) == (0.5, 512)


def test_the_base_model_takes_tags_after_the_clip(tmp_path: Path) -> None:
    original.write(tmp_path / "source", chat=False)
    convert("qwen-audio", tmp_path / "source", tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"), "cpu")
    tags = "<|startoftranscript|><|en|><|transcribe|>"
    messages = [{"role": "user", "content": [{"type": "audio", "audio": ""}, {"type": "text", "text": tags}]}]
    text = loaded.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == f"<audio>[[[AUDIO:modality]]]</audio>{tags}"
    assert loaded.model.generation_config.eos_token_id == [original.FIRST_SPECIAL]


@pytest.mark.parametrize(("form", "dtype"), [("bin", torch.float16), ("safetensors", torch.bfloat16)])
def test_every_form_of_checkpoint_keeps_its_type(tmp_path: Path, form: str, dtype: torch.dtype) -> None:
    from safetensors import safe_open

    made = original.write(tmp_path / "source", form=form, dtype=dtype)
    convert("qwen-audio", tmp_path / "source", tmp_path / "model")
    held: dict[str, Tensor] = {}
    for path in (tmp_path / "model").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            held |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {tensor.dtype for tensor in held.values()} == {dtype}
    assert torch.equal(held["language_model.lm_head.weight"], made["lm_head.weight"])
    fused = [held[f"language_model.model.layers.1.self_attn.{name}.weight"] for name in ("q_proj", "k_proj", "v_proj")]
    assert torch.equal(torch.cat(fused), made["transformer.h.1.attn.c_attn.weight"])
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_compare_runs_it(tmp_path: Path) -> None:
    """A window of 10 s and 80 mel bins; the answers are noise, but every step of a comparison works."""
    config = original.configuration(audio={"n_mels": 80, "n_ctx": 500})
    original.write(tmp_path / "source", config)
    command = [sys.executable, "-c", "from fastadasp.cli.app import main; main()"]
    done = subprocess.run([*command, "convert", "qwen-audio", "source", "model"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    result = compare(tmp_path / "model", tmp_path / "out")
    assert [cell["error"] for cell in result.values()] == [None, None]
    assert result["weighted"]["efficiency"]["audio_tokens_left"] < result["full"]["efficiency"]["audio_tokens_left"]
