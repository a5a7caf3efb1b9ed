"""The built-in model families."""

from __future__ import annotations

from fastadasp.hookspecs import hookimpl
from fastadasp.models.adapter import ModelAdapter


@hookimpl
def fastadasp_models() -> list[ModelAdapter]:
    return [
        ModelAdapter(name="qwen2_audio", summary="Qwen2-Audio"),
        *(
            ModelAdapter(
                name=name,
                summary=f"{title} text decoder fed with audio embeddings; spans are given by the caller",
                decoder_paths=("", "model"),
                audio_token=None,
            )
            for name, title in (("qwen2", "Qwen2"), ("qwen3", "Qwen3"), ("llama", "Llama"))
        ),
    ]
