"""Where a model keeps its decoder and its audio tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastadasp.errors import ModelError
from fastadasp.registry import get_registry

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class ModelAdapter:
    """One model family.

    Attributes:
        name: the ``model_type`` of the family's configuration.
        summary: one line for listings.
        decoder_paths: dotted paths to the text decoder (the module with the layers and their rotary embedding); the
            first that exists is taken.
        layers, attention, norm, mlp, rotary: attribute names: the decoder's layer list; each layer's attention, second
            norm and MLP; the decoder's rotary embedding.
        audio_token: the configuration's attribute with the id of the audio placeholder token; None if the family alone
            cannot tell (spans must then be given).
        module: the module that holds the family's classes and registers its configuration and processor with
            transformers on import; None where they are transformers' own.
    """

    name: str
    summary: str = ""
    decoder_paths: tuple[str, ...] = ("model.language_model", "language_model.model", "language_model")
    layers: str = "layers"
    attention: str = "self_attn"
    norm: str = "post_attention_layernorm"
    mlp: str = "mlp"
    rotary: str = "rotary_emb"
    audio_token: str | None = "audio_token_id"
    module: str | None = None

    def decoder(self, model: nn.Module) -> nn.Module:
        """The text decoder inside `model`. Raises ModelError if none of `decoder_paths` leads to one."""
        for path in self.decoder_paths:
            module: Any = model
            for part in path.split(".") if path else ():
                module = getattr(module, part, None)
            if module is not None and hasattr(module, self.layers):
                decoder: nn.Module = module
                return decoder
        raise ModelError(
            f"{type(model).__name__} has no decoder at {' or '.join(p or 'itself' for p in self.decoder_paths)}"
        )

    def audio_token_id(self, model: nn.Module) -> int | None:
        """The id of the audio placeholder token, or None if the configuration has none."""
        return None if self.audio_token is None else getattr(model.config, self.audio_token, None)

    def span_ids(self, model: nn.Module, input_ids: Tensor) -> Tensor:
        """Which clip each position belongs to: int64 [B, T], 0 for text and padding, c for the c-th clip of its row."""
        token = self.audio_token_id(model)
        if token is None:
            raise ModelError(f"{type(model).__name__} does not say which of its tokens are audio; pass spans=")
        from fastadasp.engine.spans import number_runs

        return number_runs(input_ids == token)

    def side_inputs(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """What the model needs beside its decoder's embeddings: arguments by name, one row a sample, of fixed shape.

        `inputs` is what the processor made. Most families need nothing.
        """
        return {}


def adapter_for(model: nn.Module) -> ModelAdapter:
    """The adapter of a model's family.

    Raises:
        ModelError: no adapter is installed for its ``model_type``.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind is None:
        raise ModelError(f"{type(model).__name__} is not a transformers model: it has no config.model_type")
    adapters = {entry.name: entry for entry in get_registry().entries("model")}
    if kind not in adapters:
        raise ModelError(
            f"no adapter for model type {kind!r}; installed families: {', '.join(sorted(adapters)) or 'none'}. "
            "A plugin can add one with the hook fastadasp_models"
        )
    adapter: ModelAdapter = adapters[kind].value
    return adapter
