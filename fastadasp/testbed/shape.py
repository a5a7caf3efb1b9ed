"""The test bed's architecture: a family of transformers that holds a Whisper encoder and a Llama decoder unchanged."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastadasp.errors import ModelError

FAMILY = "moss_transcribe_diarize"
"""Whisper, four frames put side by side, two linear layers with a norm behind them, then any decoder."""

RENAMED = {
    "<jupyter_start>": "<|audio_bos|>",
    "<jupyter_output>": "<|AUDIO|>",
    "<jupyter_text>": "<|audio_eos|>",
}
"""Special tokens of SmolLM2 that no speech needs, and what they are here: the vocabulary keeps its size."""


def _family() -> tuple[Any, Any]:
    """Configuration and model class. Raises ModelError where transformers does not have the family yet."""
    try:
        from transformers import MossTranscribeDiarizeConfig, MossTranscribeDiarizeForConditionalGeneration
    except ImportError:
        from transformers import __version__

        raise ModelError(
            f"the test bed is a model of the family {FAMILY}, which transformers {__version__} does not have; "
            "install a newer release"
        ) from None
    return MossTranscribeDiarizeConfig, MossTranscribeDiarizeForConditionalGeneration


def configuration(encoder: Any, decoder: Any, audio_token: int) -> Any:
    """The configuration of the whole from those of Whisper and of the decoder, and the id of the audio token.

    Raises:
        ModelError: transformers does not have the family.
    """
    whole, _ = _family()
    text = decoder.to_dict()
    text.pop("quantization_config", None)
    return whole(
        audio_config={
            "model_type": f"{FAMILY}_audio",
            "num_mel_bins": encoder.num_mel_bins,
            "num_hidden_layers": encoder.encoder_layers,
            "num_attention_heads": encoder.encoder_attention_heads,
            "intermediate_size": encoder.encoder_ffn_dim,
            "hidden_size": encoder.d_model,
            "max_source_positions": encoder.max_source_positions,
        },
        text_config=text,
        audio_token_id=audio_token,
        tie_word_embeddings=decoder.tie_word_embeddings,
    )


def new_model(config: Any) -> Any:
    """The model with random weights."""
    return _family()[1](config)


def make_projector(width: int, decoder: Any) -> nn.Module:
    """A fresh projector alone: [..., 4 * width] -> [..., hidden size of the decoder's configuration].

    Example::

        >>> from transformers import LlamaConfig
        >>> make_projector(8, LlamaConfig(hidden_size=16, num_attention_heads=2)).linear_1
        Linear(in_features=32, out_features=16, bias=True)
    """
    whole, cls = _family()
    text = {"model_type": "llama", "hidden_size": decoder.hidden_size, "rms_norm_eps": decoder.rms_norm_eps}
    text |= {"num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    audio = {"hidden_size": width, "num_hidden_layers": 1, "intermediate_size": 8, "num_attention_heads": 1}
    config = whole(audio_config=audio | {"model_type": f"{FAMILY}_audio"}, text_config=text, audio_token_id=0)
    projector: nn.Module = cls(config).model.multi_modal_projector
    return projector
