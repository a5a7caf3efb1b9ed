"""A tiny random Voxtral, which vLLM reads in Mistral's format alone: the same weights under other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mistral_common
import numpy as np
import torch
import transformers as hf
from families import BINS, DECODER, HIDDEN, VOCABULARY, WHISPER, randomised
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from safetensors.torch import save_file

AUDIO, SPECIAL, RATE, WINDOW = 24, 64, 16_000, 30
TOKENS = 375
"""Audio tokens of a window."""
OPTIONS = {"tokenizer_mode": "mistral", "config_format": "mistral", "load_format": "mistral"}
PARTS = {
    "audio_tower.": "mm_whisper_embeddings.whisper_encoder.",
    "multi_modal_projector.linear_1": "audio_language_adapter.w_in",
    "multi_modal_projector.linear_2": "audio_language_adapter.w_out",
    "language_model.lm_head": "lm_head",
    "language_model.model.": "model.",
    "language_model.": "model.",
}


def prompt() -> list[int]:
    """The start, an instruction's marks, a clip, and some words."""
    return [1, 3, AUDIO + 1, *[AUDIO] * TOKENS, 4, 200, 300, 400]


def build(folder: Path) -> torch.nn.Module:
    """Writes what vLLM reads; returns the model of transformers."""
    config = hf.VoxtralConfig(
        audio_config=WHISPER
        | {"model_type": "voxtral_encoder", "intermediate_size": 256, "max_source_positions": 50 * WINDOW},
        text_config=DECODER | {"model_type": "llama", "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2},
        audio_token_id=AUDIO,
    )
    torch.manual_seed(0)
    model = randomised(hf.VoxtralForConditionalGeneration(config).eval().float())
    (folder / "tekken.json").write_text(json.dumps(_tokenizer()))
    (folder / "params.json").write_text(json.dumps(_sizes()))
    save_file(_renamed(model.state_dict()), folder / "consolidated.safetensors")
    return model


def _tokenizer() -> dict[str, Any]:
    """Some words of a tokenizer that Mistral released, with special tokens at the places of Voxtral's."""
    source = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
    released = json.loads(source.read_text(encoding="utf-8"))
    given = [token["token_str"] for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    names = [str(getattr(name, "value", name)) for name in given]
    names += [f"<SPECIAL_{i}>" for i in range(len(names), AUDIO)] + ["[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]"]
    words = VOCABULARY - SPECIAL
    sizes = {"num_vocab_tokens": words, "default_vocab_size": VOCABULARY, "default_num_special_tokens": SPECIAL}
    encoding = {"num_mel_bins": BINS, "hop_length": 160, "window_size": 400}
    return {
        "config": {"pattern": released["config"]["pattern"], "version": "v7"} | sizes,
        "vocab": released["vocab"][:words],
        "special_tokens": [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(names)],
        "audio": {
            "sampling_rate": RATE, "frame_rate": 12.5, "chunk_length_s": float(WINDOW),
            "audio_encoding_config": encoding,
        },
    }  # fmt: skip


def _sizes() -> dict[str, Any]:
    encoder = {
        "audio_encoding_args": {"num_mel_bins": BINS, "window_size": 400, "sampling_rate": RATE, "hop_length": 160},
        "dim": WHISPER["hidden_size"], "n_layers": WHISPER["num_hidden_layers"], "head_dim": 32, "hidden_dim": 256,
        "n_heads": WHISPER["num_attention_heads"], "vocab_size": 51866, "max_source_positions": 50 * WINDOW,
    }  # fmt: skip
    return {
        "dim": HIDDEN, "n_layers": DECODER["num_hidden_layers"], "head_dim": DECODER["head_dim"],
        "hidden_dim": DECODER["intermediate_size"], "n_heads": DECODER["num_attention_heads"],
        "n_kv_heads": DECODER["num_key_value_heads"], "rope_theta": 10000.0, "norm_eps": 1e-5,
        "vocab_size": VOCABULARY, "max_position_embeddings": 2048, "tied_embeddings": False,
        "multimodal": {
            "whisper_model_args": {"encoder_args": encoder, "downsample_args": {"downsample_factor": 4}},
        },
    }  # fmt: skip


def _renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    made = {}
    for name, weight in weights.items():
        name = name.removeprefix("model.")
        old = next((part for part in PARTS if name.startswith(part)), "")
        new = PARTS.get(old, "") + name.removeprefix(old)
        if old == "audio_tower.":
            new = new.replace(".fc", ".mlp.fc")
            if new.endswith("q_proj.bias"):  # vLLM keeps a bias for keys, which Whisper has not
                made[new.replace("q_proj", "k_proj")] = torch.zeros_like(weight)
        made[new] = weight.clone().contiguous()
    return made


def inputs(wave: Any) -> dict[str, torch.Tensor]:
    """What transformers is given for a clip."""
    features = hf.WhisperFeatureExtractor(feature_size=BINS)(wave, sampling_rate=RATE, return_tensors="pt")
    ids = torch.tensor([prompt()])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "input_features": features["input_features"]}


def request(wave: Any) -> dict[str, Any]:
    """What vLLM is given: tokens with the clip's own among them, and the clip, filled up to the window."""
    whole = np.pad(wave, (0, WINDOW * RATE - len(wave)))
    return {"prompt_token_ids": prompt(), "multi_modal_data": {"audio": (whole, RATE)}}
