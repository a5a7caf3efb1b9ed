"""The built-in model families."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastadasp.contracts.adapter import ModelAdapter, follow
from fastadasp.contracts.hookspecs import hookimpl
from fastadasp.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn


@dataclass(frozen=True)
class ThreeAxes(ModelAdapter):
    """Decoders whose rotary embedding takes positions on three axes, which are equal for audio and text.

    Attributes:
        deepstack: whether the decoder adds to the image tokens of the whole prompt between its layers.
    """

    deepstack: bool = False

    def check_call(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        if self.deepstack and _has_images(inputs):
            raise ModelError(
                f"{type(model).__name__} adds to image tokens between layers, where a strategy has moved them; "
                "leave images and videos out of prompts with audio"
            )

    def rotary_embeddings(self, decoder: nn.Module, states: Tensor, positions: Tensor, layer: int) -> Any:
        if positions.dim() == 2:
            positions = positions.expand(3, -1, -1)
        return super().rotary_embeddings(decoder, states, positions[-3:], layer)


@dataclass(frozen=True)
class RotaryByLayerType(ModelAdapter):
    """Decoders whose layers with and without a sliding window have rotary embeddings of their own."""

    def rotary_embeddings(self, decoder: nn.Module, states: Tensor, positions: Tensor, layer: int) -> Any:
        config: Any = decoder.config
        return getattr(decoder, self.rotary)(states, positions, config.layer_types[layer])

    def check_call(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        kinds = inputs.get("mm_token_type_ids")  # 1 an image, 2 a video, 3 audio; given with prompts alone
        if _has_images(inputs) or (kinds is not None and bool(((kinds == 1) | (kinds == 2)).any())):
            raise ModelError(
                f"the image tokens of {type(model).__name__} look at each other in both directions, which a strategy "
                "does not keep; leave images and videos out of prompts with audio"
            )


@dataclass(frozen=True)
class Talking(ThreeAxes):
    """A thinker with a talker, which speaks from the hidden states of every token of the prompt."""

    decoder_paths: tuple[str, ...] = ("thinker.model.language_model", "thinker.model")
    entrance_path: str = "thinker"

    def check_call(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        super().check_call(model, inputs)
        if inputs.get("output_hidden_states"):
            raise ModelError(
                f"the talker of {type(model).__name__} needs the hidden states of every token of the prompt; "
                'with a strategy, generate text only: generate(..., generation_mode="text"), or return_audio=False'
            )


def _has_images(inputs: Mapping[str, Any]) -> bool:
    return any(inputs.get(name) is not None for name in ("pixel_values", "pixel_values_videos"))


@dataclass(frozen=True)
class Stacking(ModelAdapter):
    """Projectors that put neighbouring frames of the encoder side by side, as many as the configuration says.

    Attributes:
        stack: dotted path to their number; or to their joint width, if `width` leads to that of one frame.
    """

    stack: str = ""
    width: str = ""

    def frames_of_token(self, model: nn.Module) -> int:
        config = self.entrance(model).config
        stacked = int(follow(config, self.stack))
        return stacked // int(follow(config, self.width)) if self.width else stacked


@dataclass(frozen=True)
class Voxtral(Stacking):
    """Its processor takes sound only inside a conversation, as a file in base64."""

    def processor_inputs(
        self, processor: Any, waves: Sequence[NDArray[np.float32]], instructions: Sequence[str], rate: int
    ) -> Any:
        return processor.apply_chat_template(self.messages([_wav(w, rate) for w in waves], instructions, "base64"))


def _wav(wave: NDArray[np.float32], rate: int) -> str:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype="FLOAT")
    return base64.b64encode(file.getvalue()).decode()


def _family(name: str, summary: str, cls: type[ModelAdapter] = ModelAdapter, **differences: Any) -> ModelAdapter:
    return cls(**{"name": name, "summary": summary, "package": name} | differences)


_THINKER = {"decoder_paths": ("model.language_model", "language_model", "model")}


_TOWER: Any = {"encoder_paths": ("model.audio_tower.layers", "audio_tower.layers")}
_WHISPER: Any = _TOWER | {"encoder_frames": 2}
"""A Whisper encoder with a pooling of two frames after it."""
_WIDTHS: Any = {"stack": "audio_config.intermediate_size", "width": "audio_config.hidden_size"}
_TALKER: Any = {"encoder_paths": ("thinker.model.audio_tower.layers", "thinker.audio_tower.layers")}
_NO_ATTENTION = "their encoder has no attention"
_QFORMER = "a Q-Former makes their audio tokens out of whole windows of frames"


def _usable() -> list[ModelAdapter]:
    return [
        _family("qwen2_audio", "Qwen2-Audio", **_WHISPER),
        *(
            _family(
                name,
                f"{title} text decoder fed with audio embeddings; spans are given by the caller",
                decoder_paths=("", "model"),
                audio_token=None,
                encoder_refusal="they have no audio encoder",
            )
            for name, title in (("qwen2", "Qwen2"), ("qwen3", "Qwen3"), ("llama", "Llama"))
        ),
        _family("apertus1p5", "Apertus 1.5", norm="feedforward_layernorm", encoder_refusal=_NO_ATTENTION),
        _family("audioflamingo3", "Audio Flamingo 3", **_WHISPER),
        _family("fun_asr_nano", "Fun-ASR-Nano", clip_lengths="input_features_mask", **_TOWER),
        _family(
            "gemma4_unified",
            "Gemma 4 12B",
            RotaryByLayerType,
            clip_lengths="input_features_mask",
            encoder_refusal="they have no audio encoder",
        ),
        _family("glmasr", "GLM-ASR-Nano", Stacking, encoder_hears_padding=True, **_TOWER, **_WIDTHS),
        *(
            _family(name, title, clip_lengths="input_features_mask", encoder_refusal=_QFORMER)
            for name, title in (("granite_speech", "Granite Speech"), ("granite_speech_plus", "Granite Speech Plus"))
        ),
        _family(
            "moss_transcribe_diarize",
            "MOSS-Transcribe-Diarize",
            Stacking,
            encoder_hears_padding=True,
            stack="audio_merge_size",
            **_TOWER,
        ),
        _family("muse_spark", "Muse Spark", encoder_refusal=_NO_ATTENTION),
        _family("musicflamingo", "Music Flamingo", **_WHISPER),
        _family("omniasr", "OmniASR-LLM", encoder_self_attention="attention", **_TOWER),
        _family(
            "phi4_multimodal",
            "Phi-4-multimodal",
            decoder_paths=("model", ""),
            audio_token="audio_config.audio_token_id",
            clip_lengths="audio_embed_sizes",
            encoder_paths=("model.embed_tokens_extend.audio_embed.encoder.encoders",),
            encoder_hears_padding=True,
        ),
        _family("qwen2_5_omni", "Qwen2.5-Omni with its talker; for text answers", Talking, encoder_frames=2, **_TALKER),
        _family(
            "qwen2_5_omni_thinker", "Qwen2.5-Omni thinker", ThreeAxes, package="qwen2_5_omni", **_THINKER, **_WHISPER
        ),
        _family("qwen3_asr", "Qwen3-ASR", **_TOWER),
        _family("qwen3_omni_moe", "Qwen3-Omni with its talker; for text answers", Talking, deepstack=True, **_TALKER),
        _family(
            "qwen3_omni_moe_thinker",
            "Qwen3-Omni thinker",
            ThreeAxes,
            package="qwen3_omni_moe",
            deepstack=True,
            **_THINKER,
            **_TOWER,
        ),
        _family("vibevoice_asr", "VibeVoice-ASR", encoder_refusal=_NO_ATTENTION),
        _family("voxtral", "Voxtral", Voxtral, **_TOWER, **_WIDTHS),
    ]


_CROSS = "it is an encoder-decoder: audio reaches the decoder through cross-attention, not as tokens"
_MAMBA = "its decoder has layers without attention (Mamba), whose running state takes in every token"
_ADDED = "audio is added to the text tokens frame by frame, so there are no audio tokens to remove"
_SPEAKS = "it generates speech and reads audio only as a voice to copy"
_SHARED = "its last layers read keys and values of earlier layers, which then hold other tokens than they do"
_REFUSED = {
    "canary": ("Canary", _CROSS),
    "cohere_asr": ("Cohere Transcribe", _CROSS),
    "csm": ("CSM", _SPEAKS),
    "dia": ("Dia", _SPEAKS),
    "dots3_note": ("dots.note", "its layers choose keys by an index of their own, which covers the whole prompt"),
    "gemma3n": ("Gemma 3n", f"{_SHARED}; besides, each layer mixes four streams of hidden states"),
    "gemma4": ("Gemma 4 E2B and E4B", _SHARED),
    "higgs_audio_v2": ("Higgs Audio v2", _SPEAKS),
    "inkling_mm_model": (
        "Inkling",
        "its layers convolve neighbouring tokens around attention and MLP, and take positions from the number of keys",
    ),
    "kyutai_speech_to_text": ("Kyutai STT", _ADDED),
    "moonshine": ("Moonshine", _CROSS),
    "moonshine_streaming": ("Moonshine Streaming", _CROSS),
    "moshi": ("Moshi", _ADDED),
    "nemo_speechlm": ("Nemotron 3.5 Transcribe", _MAMBA),
    "nemotron_h_omni": ("Nemotron 3 Omni", _MAMBA),
    "pop2piano": ("Pop2Piano", _CROSS),
    "seamless_m4t": ("SeamlessM4T", _CROSS),
    "seamless_m4t_v2": ("SeamlessM4T v2", _CROSS),
    "speech-encoder-decoder": ("Speech encoder-decoders", _CROSS),
    "speech_to_text": ("Speech2Text", _CROSS),
    "speecht5": ("SpeechT5", _CROSS),
    "vibevoice": ("VibeVoice", _SPEAKS),
    "voxtral_realtime": ("Voxtral Realtime", _ADDED),
    "whisper": ("Whisper", _CROSS),
}
_PACKAGES = {
    "inkling_mm_model": "inkling",
    "speech-encoder-decoder": "speech_encoder_decoder",
    "nemo_speechlm": "nemotron3_5_transcribe",
}


def _unusable() -> list[ModelAdapter]:
    return [
        _family(name, summary, package=_PACKAGES.get(name, name), refusal=reason)
        for name, (summary, reason) in _REFUSED.items()
    ]


@hookimpl
def fastadasp_models() -> list[ModelAdapter]:
    return [*_usable(), *_unusable()]
