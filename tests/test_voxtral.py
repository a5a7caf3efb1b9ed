"""Voxtral through its own processor: a tokenizer of Mistral's format, conversations with sound in base64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mistral_common
import numpy as np
import pytest
import torch
import transformers
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from transformers.tokenization_mistral_common import MistralCommonBackend

import fastadasp
from fastadasp.inference.load import LoadedModel

AUDIO, WORDS, SPECIAL = 24, 2000, 500
RATE = 16_000
ENCODER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
DECODER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}


def tokenizer(folder: Path) -> Any:
    """Some words of a tokenizer that Mistral released, with the special tokens of Voxtral's."""
    source = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
    data = json.loads(source.read_text(encoding="utf-8"))
    given = [token["token_str"] for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    names = [str(getattr(name, "value", name)) for name in given]
    names += [f"<SPECIAL_{i}>" for i in range(len(names), AUDIO)] + ["[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]"]
    data["special_tokens"] = [{"rank": i, "token_str": n, "is_control": True} for i, n in enumerate(names)]
    data["vocab"] = data["vocab"][:WORDS]
    data["config"] |= {
        "version": "v7",
        "num_vocab_tokens": WORDS,
        "default_vocab_size": WORDS + SPECIAL,
        "default_num_special_tokens": SPECIAL,
    }
    data.pop("image")
    encoding = {"num_mel_bins": 128, "hop_length": 160, "window_size": 400}
    data["audio"] = {
        "sampling_rate": RATE,
        "frame_rate": 12.5,
        "audio_encoding_config": encoding,
        "chunk_length_s": 30.0,
    }
    (folder / "tekken.json").write_text(json.dumps(data), encoding="utf-8")
    return MistralCommonBackend.from_pretrained(folder)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> fastadasp.SpeechModel:
    features = transformers.WhisperFeatureExtractor(feature_size=128)
    processor = transformers.VoxtralProcessor(features, tokenizer(tmp_path_factory.mktemp("voxtral")))
    config = transformers.VoxtralConfig(
        audio_config=ENCODER | {"model_type": "voxtral_encoder", "num_mel_bins": 128},
        text_config=DECODER | {"model_type": "llama", "intermediate_size": 64, "vocab_size": WORDS + SPECIAL},
        audio_token_id=AUDIO,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.VoxtralForConditionalGeneration(config).eval()
    model.generation_config.update(eos_token_id=2, bos_token_id=1, pad_token_id=11)
    return fastadasp.SpeechModel(LoadedModel(model, processor, "tiny", "cpu", "float32"))


@pytest.mark.parametrize("strategy", [None, "weighted", "random", "prune"])
def test_recordings_of_any_length_are_answered(speech: fastadasp.SpeechModel, strategy: str | None) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 40 * RATE).astype(np.float32)
    budget = None if strategy is None else 0.5
    answer = speech.transcribe(wave, strategy, budget, max_new_tokens=4)
    assert len(answer.segments) == 2
    assert answer.audio_tokens == 2 * 375  # Voxtral pads each window to 30 s
    left = answer.audio_tokens if strategy is None else answer.audio_tokens - 2 * int(375 * 0.5)
    assert answer.audio_tokens_left == left
