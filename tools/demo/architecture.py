"""The embedded model's sizes, tokenizer and processor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from fastadasp.demo import prompts
from tools.demo.audio import DIGITS, GERMAN

VOCABULARY = 640


def make_tokenizer(answers: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that knows the instructions and answers; any text can be written with it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(prompts.SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    instructions = [text for texts in (*prompts.INSTRUCTIONS.values(), *prompts.QUESTIONS.values()) for text in texts]
    numbers = [f"{word} {word}" for word in (*DIGITS, *GERMAN)]
    tokenizer.train_from_iterator([*answers, *(" " + a for a in answers), *instructions, *numbers * 50], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=prompts.END_OF_TEXT,
        pad_token=prompts.END_OF_TEXT,
        additional_special_tokens=[t for t in prompts.SPECIAL_TOKENS if t != prompts.END_OF_TEXT],
        padding_side="left",
        model_max_length=2048,
    )
    return fast


def make_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2AudioProcessor:
    """Whisper features at 16 kHz (80 mel bins) and the tokenizer."""
    return Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer, chat_template=prompts.CHAT_TEMPLATE)


def make_model(encoder: str, tokenizer: PreTrainedTokenizerFast, hidden: int = 256, layers: int = 10) -> Any:
    """Qwen2-Audio with Whisper's encoder (`encoder`: folder or hub id) and a fresh decoder of `layers` x `hidden`."""
    whisper = WhisperForConditionalGeneration.from_pretrained(encoder, dtype="float32", trust_remote_code=False)
    source = whisper.config
    end = tokenizer.convert_tokens_to_ids(prompts.END_OF_TEXT)
    placeholder: Any = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    config = Qwen2AudioConfig(
        audio_config={
            "d_model": source.d_model,
            "encoder_layers": source.encoder_layers,
            "encoder_attention_heads": source.encoder_attention_heads,
            "encoder_ffn_dim": source.encoder_ffn_dim,
            "num_mel_bins": source.num_mel_bins,
            "max_source_positions": source.max_source_positions,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 64,
            "num_key_value_heads": hidden // 128,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
        },
        audio_token_index=placeholder,
        tie_word_embeddings=False,  # type: ignore[call-arg]
    )
    model = Qwen2AudioForConditionalGeneration(config)
    weights = dict(whisper.model.encoder.state_dict())
    model.model.audio_tower.load_state_dict(weights, strict=True)
    model.model.audio_tower.requires_grad_(False)
    model.generation_config.update(
        eos_token_id=end, pad_token_id=end, bos_token_id=end, do_sample=False, max_new_tokens=64
    )
    return model


def load_model(folder: Path) -> tuple[Any, Any]:
    """A trained model and its processor, ready to be trained further: float32, with the encoder frozen."""
    model = Qwen2AudioForConditionalGeneration.from_pretrained(
        folder, dtype="float32", local_files_only=True, trust_remote_code=False
    )
    model.model.audio_tower.requires_grad_(False)
    processor = Qwen2AudioProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return model, processor


def save_model(folder: Path, model: Any, processor: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Write `state` as the weights of `model` in float16, with the processor and what the model knows."""
    weights = {name: value.detach().to("cpu", torch.float16) for name, value in state.items()}
    model.save_pretrained(folder, state_dict=weights, max_shard_size="15MB")
    processor.save_pretrained(folder)
    known = json.dumps(prompts.knows(), ensure_ascii=False, indent=2) + "\n"
    (folder / "knows.json").write_text(known, encoding="utf-8")
