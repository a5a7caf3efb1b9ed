"""The built-in model families."""

from __future__ import annotations

from fastadasp.hookspecs import hookimpl
from fastadasp.models.adapter import ModelAdapter


@hookimpl
def fastadasp_models() -> list[ModelAdapter]:
    return [
        ModelAdapter(name="qwen2_audio", summary="Qwen2-Audio"),
        ModelAdapter(
            name="qwen2",
            summary="Qwen2 text decoder fed with audio embeddings; spans are given by the caller",
            decoder_paths=("", "model"),
            audio_token=None,
        ),
    ]
