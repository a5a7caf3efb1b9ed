"""Every supported family as a small random model, and one clip as its encoder takes it. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import transformers
from tiny import AUDIO, MEL_BINS, PAD, TEXT, VOCABULARY
from torch import Tensor

ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_mel_bins": MEL_BINS,
}
WHISPER = ENCODER | {"max_source_positions": 40}
QFORMER = {
    "model_type": "blip_2_qformer",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "encoder_hidden_size": 32,
    "cross_attention_frequency": 1,
}
CONFORMER = {"input_dim": MEL_BINS, "num_layers": 2, "hidden_dim": 32, "num_heads": 2, "context_size": 10}
CONFORMER |= {"output_dim": 8, "max_pos_emb": 16}
OMNI = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "output_dim": 32}
OMNI |= {"num_mel_bins": MEL_BINS, "max_source_positions": 40}
VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
TOKENIZER = {"model_type": "vibevoice_acoustic_tokenizer_encoder", "hidden_size": 8, "num_filters": 4}
TOKENIZER |= {"downsampling_ratios": [2, 2], "depths": [1, 1, 1], "vae_std": 0.0}
GRANITE = TEXT | {"residual_multiplier": 0.4, "embedding_multiplier": 3.0, "attention_multiplier": 0.2}
GRANITE |= {"logits_scaling": 2.0, "model_type": "granite"}
M_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}


def _mel(frames: int) -> Callable[[torch.Generator], dict[str, Tensor]]:
    """Mel features [1, bins, frames] and their mask."""

    def features(generator: torch.Generator) -> dict[str, Tensor]:
        mask = torch.ones(1, frames, dtype=torch.int64)
        return {"input_features": torch.randn(1, MEL_BINS, frames, generator=generator), "input_features_mask": mask}

    return features


def _frames(generator: torch.Generator) -> dict[str, Tensor]:
    return {"input_features": torch.randn(1, 30, MEL_BINS, generator=generator)}


def _only(names: dict[str, str], features: Callable[[torch.Generator], dict[str, Tensor]]) -> Any:
    """The features under other names; those that `names` lacks are left out."""
    return lambda generator: {names[k]: v for k, v in features(generator).items() if k in names}


@dataclass(frozen=True)
class Family:
    """One family: its model and configuration classes, the configuration's arguments, and a clip.

    Attributes:
        clip: from a generator, what the model is given for one clip.
        tokens: audio tokens that the clip becomes.
    """

    model: str
    config: str
    arguments: dict[str, Any]
    clip: Callable[[torch.Generator], dict[str, Tensor]]
    tokens: int


def text(model_type: str, **changes: Any) -> dict[str, Any]:
    return TEXT | {"model_type": model_type, "head_dim": 8} | changes


MASKED = {"input_features": "input_features", "input_features_mask": "feature_attention_mask"}
FAMILIES: dict[str, Family] = {
    "qwen2_audio": Family(
        "Qwen2AudioForConditionalGeneration",
        "Qwen2AudioConfig",
        {"audio_config": WHISPER, "text_config": text("qwen2"), "audio_token_index": AUDIO},
        _only(MASKED, _mel(80)),
        20,
    ),
    "audioflamingo3": Family(
        "AudioFlamingo3ForConditionalGeneration",
        "AudioFlamingo3Config",
        {
            "audio_config": WHISPER | {"model_type": "audioflamingo3_encoder"},
            "text_config": text("qwen2"),
            "audio_token_id": AUDIO,
        },
        _mel(80),
        20,
    ),
    "musicflamingo": Family(
        "MusicFlamingoForConditionalGeneration",
        "MusicFlamingoConfig",
        {
            "audio_config": WHISPER | {"model_type": "audioflamingo3_encoder"},
            "text_config": text("qwen2"),
            "audio_token_id": AUDIO,
        },
        _mel(80),
        20,
    ),
    "voxtral": Family(
        "VoxtralForConditionalGeneration",
        "VoxtralConfig",
        {
            "audio_config": WHISPER | {"model_type": "voxtral_encoder", "intermediate_size": 128},
            "text_config": text("llama"),
            "audio_token_id": AUDIO,
        },
        _only({"input_features": "input_features"}, _mel(80)),
        10,
    ),
    "glmasr": Family(
        "GlmAsrForConditionalGeneration",
        "GlmAsrConfig",
        {
            "audio_config": ENCODER | {"model_type": "glmasr_encoder", "intermediate_size": 128},
            "text_config": text("llama"),
            "audio_token_id": AUDIO,
        },
        _mel(80),
        10,
    ),
    "granite_speech": Family(
        "GraniteSpeechForConditionalGeneration",
        "GraniteSpeechConfig",
        {
            "encoder_config": CONFORMER,
            "projector_config": QFORMER,
            "text_config": GRANITE,
            "audio_token_index": AUDIO,
            "has_lora_adapter": False,
        },
        _frames,
        6,
    ),
    "granite_speech_plus": Family(
        "GraniteSpeechPlusForConditionalGeneration",
        "GraniteSpeechPlusConfig",
        {
            "encoder_config": CONFORMER,
            "projector_config": QFORMER,
            "text_config": GRANITE,
            "audio_token_index": AUDIO,
            "has_lora_adapter": False,
        },
        _frames,
        6,
    ),
    "qwen3_asr": Family(
        "Qwen3ASRForConditionalGeneration",
        "Qwen3ASRConfig",
        {
            "audio_config": OMNI
            | {"model_type": "qwen3_asr_encoder", "downsample_hidden_size": 8, "n_window_infer": 100},
            "text_config": text("qwen3"),
            "audio_token_id": AUDIO,
        },
        _mel(100),
        13,
    ),
    "fun_asr_nano": Family(
        "FunAsrNanoForConditionalGeneration",
        "FunAsrNanoConfig",
        {
            "audio_config": {
                "model_type": "fun_asr_nano_encoder",
                "num_mel_bins": MEL_BINS,
                "hidden_size": 32,
                "num_attention_heads": 2,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_stacked_frames": 2,
                "num_timestamp_prediction_layers": 1,
            },
            "adaptor_config": {
                "hidden_size": 32,
                "num_attention_heads": 2,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "projector_hidden_size": 32,
            },
            "text_config": text("qwen3"),
            "audio_token_id": AUDIO,
        },
        lambda generator: {
            "input_features": torch.randn(1, 16, 2 * MEL_BINS, generator=generator),
            "input_features_mask": torch.ones(1, 16, dtype=torch.int64),
        },
        16,
    ),
    "vibevoice_asr": Family(
        "VibeVoiceAsrForConditionalGeneration",
        "VibeVoiceAsrConfig",
        {
            "acoustic_tokenizer_encoder_config": TOKENIZER,
            "semantic_tokenizer_encoder_config": TOKENIZER,
            "text_config": text("qwen2"),
            "audio_token_id": AUDIO,
            "acoustic_tokenizer_chunk_size": 400,
        },
        lambda generator: {
            "input_values": torch.randn(1, 1, 64, generator=generator),
            "padding_mask": torch.ones(1, 64, dtype=torch.bool),
        },
        16,
    ),
    "moss_transcribe_diarize": Family(
        "MossTranscribeDiarizeForConditionalGeneration",
        "MossTranscribeDiarizeConfig",
        {"audio_config": WHISPER, "text_config": text("qwen3"), "audio_token_id": AUDIO},
        lambda generator: _mel(80)(generator) | {"padding_mask": torch.ones(1, 800, dtype=torch.int64)},
        10,
    ),
    "phi4_multimodal": Family(
        "Phi4MultimodalForCausalLM",
        "Phi4MultimodalConfig",
        TEXT
        | {
            "sliding_window": 512,
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 28,
                "crop_size": 28,
            },
            "audio_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_blocks": 1,
                "num_attention_heads": 2,
                "ext_pw_out_channel": 32,
                "depthwise_separable_out_channel": 32,
                "input_size": MEL_BINS,
                "nemo_conv_channels": 16,
                "audio_token_id": AUDIO,
                "time_reduction": 4,
            },
        },
        lambda generator: {
            "audio_input_features": torch.randn(1, 48, MEL_BINS, generator=generator),
            "audio_embed_sizes": torch.tensor([12]),
            "audio_attention_mask": torch.ones(1, 48, dtype=torch.bool),
        },
        12,
    ),
    "gemma4_unified": Family(
        "Gemma4UnifiedForConditionalGeneration",
        "Gemma4UnifiedConfig",
        {
            "audio_config": {"audio_embed_dim": 16},
            "text_config": {key: value for key, value in TEXT.items() if key != "rope_parameters"}
            | {
                "head_dim": 8,
                "global_head_dim": 16,
                "sliding_window": 512,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
                "vocab_size": VOCABULARY + 2,
            },
            "audio_token_id": AUDIO,
            "image_token_id": VOCABULARY,
            "video_token_id": VOCABULARY + 1,
        },
        lambda generator: {
            "input_features": torch.randn(1, 14, 16, generator=generator),
            "input_features_mask": torch.ones(1, 14, dtype=torch.bool),
        },
        14,
    ),
    "muse_spark": Family(
        "MuseSparkForConditionalGeneration",
        "MuseSparkConfig",
        {
            "audio_config": {
                "patch_sizes": [4, 2],
                "hidden_sizes": [8, 16],
                "depths": [1, 1],
                "num_hidden_layers": 2,
                "out_hidden_size": 32,
            },
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
            "text_config": text("muse_spark_text")
            | {
                "moe_intermediate_size": 16,
                "num_local_experts": 4,
                "num_experts_per_tok": 2,
                "moe_hidden_size": 16,
                "qk_scale_factor": 1.0,
                "sliding_window": 512,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
                "layer_rope_theta": [10000.0, 0, 10000.0, 0],
            },
            "out_hidden_size": 32,
            "projector_hidden_size": 32,
            "audio_token_id": AUDIO,
        },
        lambda generator: {
            "input_values": torch.randn(1, 112, generator=generator),
            "input_values_mask": torch.ones(1, 112, dtype=torch.bool),
        },
        14,
    ),
    "omniasr": Family(
        "OmniASRForConditionalGeneration",
        "OmniASRConfig",
        {
            "audio_config": {
                "model_type": "omniasr_audio",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_attention_heads": 2,
                "num_hidden_layers": 1,
                "conv_dim": [8, 8],
                "conv_kernel": [4, 2],
                "conv_stride": [2, 2],
                "num_conv_pos_embeddings": 4,
                "num_conv_pos_embedding_groups": 2,
            },
            "text_config": text("llama"),
            "audio_token_id": AUDIO,
        },
        lambda generator: {
            "input_values": torch.randn(1, 1, 66, generator=generator),
            "padding_mask": torch.ones(1, 66, dtype=torch.int64),
        },
        16,
    ),
    "apertus1p5": Family(
        "Apertus1p5ForConditionalGeneration",
        "Apertus1p5Config",
        {
            "audio_config": {
                "model_type": "wavtokenizer_encoder",
                "num_filters": 4,
                "upsampling_ratios": [2, 2],
                "num_lstm_layers": 1,
                "hidden_size": 16,
                "codebook_size": 32,
                "codebook_dim": 16,
            },
            "vision_config": {
                "codebook_size": 8,
                "embed_dim": 8,
                "latent_channels": 8,
                "base_channels": 32,
                "channel_multiplier": [1, 1],
                "num_res_blocks": 1,
                "resolution": 16,
            },
            "text_config": text("apertus1p5_text", vocab_size=VOCABULARY + 44),
            "audio_token_id": AUDIO,
            "image_token_id": VOCABULARY + 1,
            "image_token_offset": VOCABULARY + 4,
            "audio_token_offset": VOCABULARY + 12,
        },
        lambda generator: {
            "input_values": torch.randn(1, 1, 64, generator=generator),
            "padding_mask": torch.ones(1, 64, dtype=torch.int64),
        },
        16,
    ),
    "qwen2_5_omni_thinker": Family(
        "Qwen2_5OmniThinkerForConditionalGeneration",
        "Qwen2_5OmniThinkerConfig",
        {
            "audio_config": OMNI | {"n_window": 20},
            "vision_config": VISION,
            "text_config": TEXT | {"rope_parameters": M_ROPE},
            "audio_token_index": AUDIO,
            "vision_start_token_id": VOCABULARY + 1,
        },
        _only(MASKED, _mel(80)),
        20,
    ),
    "qwen3_omni_moe_thinker": Family(
        "Qwen3OmniMoeThinkerForConditionalGeneration",
        "Qwen3OmniMoeThinkerConfig",
        {
            "audio_config": OMNI | {"downsample_hidden_size": 8},
            "vision_config": VISION | {"deepstack_visual_indexes": [0]},
            "text_config": TEXT
            | {
                "rope_parameters": M_ROPE,
                "head_dim": 8,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 16,
            },
            "audio_token_id": AUDIO,
            "vision_start_token_id": VOCABULARY + 1,
        },
        _only(MASKED, _mel(200)),
        26,
    ),
}


def installed() -> list[str]:
    """The families that this version of transformers has."""
    return [name for name, family in FAMILIES.items() if hasattr(transformers, family.model)]


def _implementations(name: str, attention: str) -> Any:
    """Some encoders lack one of the implementations, in transformers itself."""
    split = {name: {"text_config": attention} for name in ("apertus1p5", "vibevoice_asr")}
    split |= {"phi4_multimodal": {"": attention, "audio_config": "sdpa"}}
    return split.get(name, attention)


@lru_cache
def family_model(name: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """A model of the family with `tiny.LAYERS` layers; the same weights for every implementation and dtype."""
    family = FAMILIES[name]
    config = getattr(transformers, family.config)(
        **family.arguments, attn_implementation=_implementations(name, attention)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, family.model)(config).eval().requires_grad_(False)
    model.generation_config.update(
        eos_token_id=None, bos_token_id=None, pad_token_id=PAD, do_sample=False, suppress_tokens=[AUDIO]
    )
    return model.to(dtype)


def prompt(name: str, *texts: int, seed: int = 0) -> dict[str, Tensor]:
    """One prompt with a clip after each stretch of text but the last, as the family's processor would give it."""
    family, generator = FAMILIES[name], torch.Generator().manual_seed(seed)
    ids: list[int] = []
    for i, count in enumerate(texts):
        ids += torch.randint(2, VOCABULARY, (count,), generator=generator).tolist()
        ids += [AUDIO] * (family.tokens if i < len(texts) - 1 else 0)
    clips = [family.clip(generator) for _ in texts[1:]]
    audio = {key: torch.cat([clip[key] for clip in clips]) for key in clips[0]} if clips else {}
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
    return inputs | audio


def padded(*prompts: dict[str, Tensor], side: str = "left") -> dict[str, Tensor]:
    """These prompts as one batch, padded on `side`."""
    sequence = torch.nn.utils.rnn.pad_sequence

    def rows(key: str, value: int) -> Tensor:
        return sequence([p[key][0] for p in prompts], batch_first=True, padding_value=value, padding_side=side)

    batch = {"input_ids": rows("input_ids", PAD), "attention_mask": rows("attention_mask", 0)}
    audio = [{key: p[key] for key in p if key not in batch} for p in prompts]
    return batch | {key: torch.cat([a[key] for a in audio if a]) for key in max(audio, key=len)}
