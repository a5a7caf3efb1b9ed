"""The sizes of a WavLLM."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, PreTrainedConfig, WavLMConfig, WhisperConfig


class WavLLMConfig(PreTrainedConfig):
    """Sizes of the released model unless given.

    Attributes:
        whisper_config, wavlm_config, text_config: of the two encoders (Whisper large-v2, WavLM base) and the decoder
            (LLaMA-2-7B, with one more embedding: the audio placeholder's).
        audio_token_id: id of the placeholder; the last row of the embedding.
        output_words: tokens that can be said.
        audio_inner, speech_inner: channels between the two convolutions after Whisper and after WavLM.
        adapter_size, adapter_bottleneck, adapter_output: channels after the convolutions, inside the adapter, and
            after its projector.
        lora_rank: of the LoRA on every attention projection.
        scale_inner: channels inside the network that makes the LoRA's scale of the prompt.
    """

    model_type = "wavllm"
    # WavLM knows no choice of attention, so transformers is not to hand ours on to it
    sub_configs = {"whisper_config": WhisperConfig, "text_config": LlamaConfig}  # noqa: RUF012

    def __init__(
        self,
        whisper_config: dict[str, Any] | WhisperConfig | None = None,
        wavlm_config: dict[str, Any] | WavLMConfig | None = None,
        text_config: dict[str, Any] | LlamaConfig | None = None,
        audio_token_id: int = 32000,
        output_words: int = 32000,
        audio_inner: int = 1280,
        speech_inner: int = 512,
        adapter_size: int = 1024,
        adapter_bottleneck: int = 512,
        adapter_output: int = 2048,
        lora_rank: int = 32,
        scale_inner: int = 1024,
        **kwargs: Any,
    ) -> None:
        whisper = {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120}
        self.whisper_config = _config(WhisperConfig, whisper_config, whisper)
        self.wavlm_config = _config(WavLMConfig, wavlm_config, {"mask_time_prob": 0.0})
        self.text_config = _config(LlamaConfig, text_config, {"vocab_size": 32001})
        self.audio_token_id, self.output_words = audio_token_id, output_words
        self.audio_inner, self.speech_inner = audio_inner, speech_inner
        self.adapter_size, self.adapter_bottleneck = adapter_size, adapter_bottleneck
        self.adapter_output = adapter_output
        self.lora_rank, self.scale_inner = lora_rank, scale_inner
        super().__init__(**kwargs)


def _config(kind: Any, given: Any, released: dict[str, Any]) -> Any:
    if isinstance(given, PreTrainedConfig):
        return given
    return kind(**(released if given is None else {k: v for k, v in given.items() if k != "model_type"}))
