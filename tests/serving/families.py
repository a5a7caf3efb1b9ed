"""Tiny random checkpoints of further families, which transformers and vLLM both load. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from fastadasp.demo import model_path

HIDDEN, VOCABULARY, BINS = 128, 704, 80
DECODER: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
WHISPER: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "num_mel_bins": BINS,
}
OMNI: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 96,
    "output_dim": HIDDEN,
    "num_mel_bins": BINS,
}
Made = tuple[Any, Any, str]
"""A model, its processor, and the text that stands for a clip in a prompt."""


def tokenizer(*special: str, **named: str) -> Any:
    """The embedded model's tokenizer with a family's special tokens; `named` are attributes of it, too."""
    made = hf.PreTrainedTokenizerFast(
        tokenizer_file=str(model_path() / "tokenizer.json"),
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens=named,
    )
    made.add_special_tokens({"extra_special_tokens": list(special)})
    for token in (*special, *named.values()):
        assert made.encode(token) == [made.convert_tokens_to_ids(token)], token
    assert len(made) <= VOCABULARY
    return made


def qwen3_asr() -> Made:
    words = tokenizer(
        "<|im_start|>", "<|im_end|>", "<asr_text>",
        audio_token="<|audio_pad|>", audio_bos_token="<|audio_start|>", audio_eos_token="<|audio_end|>",
    )  # fmt: skip
    processor = hf.Qwen3ASRProcessor(hf.Qwen3ASRFeatureExtractor(feature_size=BINS), words)
    config = hf.Qwen3ASRConfig(
        audio_config=OMNI | {"downsample_hidden_size": 16, "n_window": 50, "n_window_infer": 800},
        # vLLM reads this family's checkpoints with tied embeddings alone
        text_config=DECODER | {"model_type": "qwen3", "tie_word_embeddings": True},
        audio_token_id=processor.audio_token_id,
        pad_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    return hf.Qwen3ASRForConditionalGeneration(config), processor, "<|audio_start|><|audio_pad|><|audio_end|>"


def qwen2_5_omni() -> Made:
    words = tokenizer(
        "<|im_start|>", "<|im_end|>",
        image_token="<|IMAGE|>", audio_token="<|AUDIO|>", video_token="<|VIDEO|>",
        vision_bos_token="<|vision_bos|>", vision_eos_token="<|vision_eos|>",
        audio_bos_token="<|audio_bos|>", audio_eos_token="<|audio_eos|>",
    )  # fmt: skip
    features = hf.WhisperFeatureExtractor(feature_size=BINS, return_attention_mask=True)
    processor = hf.Qwen2_5OmniProcessor(hf.Qwen2VLImageProcessor(), hf.Qwen2VLVideoProcessor(), features, words)
    number = words.convert_tokens_to_ids
    thinker = {
        "audio_config": OMNI | {"n_window": 100, "max_source_positions": 1500},
        "vision_config": {
            "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": HIDDEN,
        },
        "text_config": DECODER | {"rope_parameters": DECODER["rope_parameters"] | {"mrope_section": [8, 4, 4]}},
        "audio_token_index": number("<|AUDIO|>"),
        "image_token_index": number("<|IMAGE|>"),
        "video_token_index": number("<|VIDEO|>"),
        "audio_start_token_id": number("<|audio_bos|>"),
        "audio_end_token_id": number("<|audio_eos|>"),
        "vision_start_token_id": number("<|vision_bos|>"),
        "vision_end_token_id": number("<|vision_eos|>"),
        "pad_token_id": 0,
    }  # fmt: skip
    config = hf.Qwen2_5OmniConfig(thinker_config=thinker, enable_audio_output=False)
    return hf.Qwen2_5OmniForConditionalGeneration(config), processor, "<|audio_bos|><|AUDIO|><|audio_eos|>"


def audioflamingo3() -> Made:
    features = hf.WhisperFeatureExtractor(feature_size=BINS)
    processor = hf.AudioFlamingo3Processor(features, tokenizer("<sound>"), audio_token="<sound>", max_audio_len=30)
    config = hf.AudioFlamingo3Config(
        audio_config=WHISPER | {"model_type": "audioflamingo3_encoder", "max_source_positions": 1500},
        text_config=DECODER | {"model_type": "qwen2"},
        audio_token_id=processor.audio_token_id,
    )
    return hf.AudioFlamingo3ForConditionalGeneration(config), processor, "<sound>"


def glmasr() -> Made:
    features = hf.WhisperFeatureExtractor(feature_size=BINS)
    words = tokenizer("<|pad|>", "<|begin_of_audio|>", "<|end_of_audio|>")
    processor = hf.GlmAsrProcessor(features, words, audio_token="<|pad|>", max_audio_len=30)
    encoder = {"model_type": "glmasr_encoder", "intermediate_size": 256, "head_dim": 32, "num_key_value_heads": 2}
    config = hf.GlmAsrConfig(
        audio_config=WHISPER | encoder | {"max_position_embeddings": 1500},
        text_config=DECODER | {"model_type": "llama"},
        audio_token_id=processor.audio_token_id,
    )
    return hf.GlmAsrForConditionalGeneration(config), processor, "<|begin_of_audio|><|pad|><|end_of_audio|>"


def granite_speech() -> Made:
    words = tokenizer("<|audio|>")
    processor = hf.GraniteSpeechProcessor(hf.GraniteSpeechFeatureExtractor(), words, audio_token="<|audio|>")
    decoder = {key: value for key, value in DECODER.items() if key != "head_dim"} | {"model_type": "granite"}
    # transformers leaves out logits_scaling, so that log probabilities agree at 1 alone
    decoder |= {"residual_multiplier": 1.0, "embedding_multiplier": 1.0, "attention_multiplier": 0.2}
    config = hf.GraniteSpeechConfig(
        encoder_config={
            "input_dim": 160, "num_layers": 2, "hidden_dim": 64, "num_heads": 2, "dim_head": 32, "context_size": 200,
            "output_dim": 42, "max_pos_emb": 512, "feedforward_mult": 2,
        },
        projector_config={
            "model_type": "blip_2_qformer", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 96, "encoder_hidden_size": 64, "cross_attention_frequency": 1,
        },
        text_config=decoder | {"logits_scaling": 1.0},
        audio_token_index=words.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=False,
    )  # fmt: skip
    return hf.GraniteSpeechForConditionalGeneration(config), processor, "<|audio|>"


FAMILIES: dict[str, Callable[[], Made]] = {
    "qwen2_5_omni": qwen2_5_omni,
    "qwen3_asr": qwen3_asr,
    "audioflamingo3": audioflamingo3,
    "glmasr": glmasr,
    "granite_speech": granite_speech,
}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Weights whose greedy answers vary and depend on the audio; the usual small ones repeat one token."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                scale = 0.05 if "embed_tokens" in name else weight[0].numel() ** -0.5
                weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return model


def build(name: str, folder: Path) -> str:
    """Writes the checkpoint of a family; returns the text that stands for a clip."""
    torch.manual_seed(0)
    model, processor, audio = FAMILIES[name]()
    randomised(model.eval().float()).save_pretrained(folder)
    processor.save_pretrained(folder)
    file = folder / "model.safetensors"
    # Two families are saved with one `model.` more than their published checkpoints have, which vLLM knows.
    twice, once = "language_model.model.model.", "language_model.model."
    save_file({key.replace(twice, once): value for key, value in load_file(file).items()}, file, {"format": "pt"})
    return audio
