"""Where a model keeps its decoder and its audio tokens."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastadasp.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn


@dataclass(frozen=True)
class ModelAdapter:
    """One model family. A family that differs in more than names overrides methods; docs/models.md shows how.

    Attributes:
        name: the ``model_type`` of the family's configuration.
        summary: one line for listings.
        package: the family's folder in ``transformers.models``; empty for a family that lives elsewhere.
        refusal: why the family cannot be used; empty for one that can.
        decoder_paths: dotted paths to the text decoder (the module with the layers and their rotary embedding); the
            first that exists is taken.
        entrance_path: dotted path to the module whose ``forward`` gets ``input_ids``; empty for the model itself.
        layers, attention, norm, mlp, rotary: attribute names: the decoder's layer list; each layer's attention, second
            norm and MLP; the decoder's rotary embedding.
        audio_token: dotted path, in the entrance's configuration, to the id of the audio placeholder token; None if
            the family alone cannot tell (spans must then be given).
        clip_lengths: the input that says how many audio tokens each clip has, as counts [clips] or as a mask
            [clips, tokens]; empty if none does. Then clips side by side, with no token between them, count as one.
        encoder_paths: dotted paths to the layers of the audio encoder, where the attention of the last one can be
            mapped to audio tokens; empty where it cannot.
        encoder_self_attention: attribute name of the attention of one of them.
        encoder_frames: frames of the encoder that one audio token is made of.
        encoder_hears_padding: whether frames after a recording's end are attended to as its own are.
        encoder_refusal: why the encoder's attention cannot be mapped to audio tokens.
        module: the module that holds the family's classes and registers its configuration and processor with
            transformers on import; None where they are transformers' own.

    Example::

        >>> fastadasp.ModelAdapter(name="my_family", audio_token="audio_token_index").decoder_paths[0]
        'model.language_model'
    """

    name: str
    summary: str = ""
    package: str = ""
    refusal: str = ""
    decoder_paths: tuple[str, ...] = ("model.language_model", "language_model.model", "language_model")
    entrance_path: str = ""
    layers: str = "layers"
    attention: str = "self_attn"
    norm: str = "post_attention_layernorm"
    mlp: str = "mlp"
    rotary: str = "rotary_emb"
    audio_token: str | None = "audio_token_id"
    clip_lengths: str = ""
    encoder_paths: tuple[str, ...] = ()
    encoder_self_attention: str = "self_attn"
    encoder_frames: int = 1
    encoder_hears_padding: bool = False
    encoder_refusal: str = ""
    module: str | None = None

    def check_usable(self) -> None:
        """Raises ModelError for a family that cannot be used."""
        if self.refusal:
            raise ModelError(f"models of type {self.name!r} cannot be used: {self.refusal}")

    def is_installed(self) -> bool:
        """Whether the installed transformers has the family (without importing it)."""
        found = importlib.util.find_spec("transformers")
        folders = [] if found is None else found.submodule_search_locations or []
        return not self.package or any((Path(folder) / "models" / self.package).is_dir() for folder in folders)

    def decoder(self, model: nn.Module) -> nn.Module:
        """The text decoder inside `model`. Raises ModelError if none of `decoder_paths` leads to one."""
        for path in self.decoder_paths:
            module = follow(model, path)
            if module is not None and hasattr(module, self.layers):
                decoder: nn.Module = module
                return decoder
        raise ModelError(
            f"{type(model).__name__} has no decoder at {' or '.join(p or 'itself' for p in self.decoder_paths)}"
        )

    def entrance(self, model: nn.Module) -> nn.Module:
        """The module whose ``forward`` gets ``input_ids``."""
        module: nn.Module | None = follow(model, self.entrance_path)
        return model if module is None else module

    def encoder_attention(self, model: nn.Module) -> nn.Module | None:
        """The self-attention of the audio encoder's last layer; None where it cannot be mapped to audio tokens."""
        found = (follow(model, path) for path in self.encoder_paths)
        layers: Any = next((module for module in found if module is not None), None)
        return None if layers is None else getattr(layers[-1], self.encoder_self_attention)

    def frames_of_token(self, model: nn.Module) -> int:
        """`encoder_frames`, for families whose configuration decides it."""
        return self.encoder_frames

    def short_parts(self, layer: nn.Module) -> tuple[tuple[nn.Module, nn.Module], ...]:
        """Where a layer works on each token alone, after its attention: pairs of the first and the last module.

        What enters a first module is shortened, what leaves a last one is expanded. The layer's output may follow from
        what enters the first pair and leaves the last in any way that is linear in both, the same for each token.

        Raises:
            ModelError: the layer is not built like that.
        """
        names = [name for name, _ in layer.named_children()]
        # Norms on both sides of the MLP: the one before it has a name of its own.
        norm = "pre_feedforward_layernorm" if "pre_feedforward_layernorm" in names else self.norm
        missing = [name for name in (self.attention, norm, self.mlp) if name not in names]
        if missing or ("post_feedforward_layernorm" in names and norm == self.norm):
            raise ModelError(
                f"{type(layer).__name__} is not a pre-norm decoder layer that {self.name!r} knows "
                f"(attention {self.attention}, second norm {norm}, MLP {self.mlp}): it has {', '.join(names)}"
            )
        return ((getattr(layer, norm), getattr(layer, self.mlp)),)

    def rotary_embeddings(self, decoder: nn.Module, states: Tensor, positions: Tensor, layer: int) -> Any:
        """What a layer gets as ``position_embeddings``, for `positions` [B, T] or [axes, B, T]; None if there are none.

        Args:
            states: hidden states [B, T, D] of the dtype and device wanted.
            layer: the layer's index.
        """
        embed = getattr(decoder, self.rotary, None)
        return None if embed is None else embed(states, positions)

    def check_call(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        """Raises ModelError for a call of the entrance that cannot work with a strategy; by default none."""

    def audio_token_id(self, model: nn.Module) -> int | None:
        """The id of the audio placeholder token, or None if the configuration has none."""
        config = self.entrance(model).config
        return None if self.audio_token is None else follow(config, self.audio_token)

    def span_ids(self, model: nn.Module, input_ids: Tensor, inputs: Mapping[str, Any] | None = None) -> Tensor:
        """Which clip each position belongs to: int64 [B, T], 0 for text and padding, other numbers for clips.

        Args:
            inputs: everything that the model is called with, where it is known.
        """
        token = self.audio_token_id(model)
        if token is None:
            raise ModelError(f"{type(model).__name__} does not say which of its tokens are audio; pass spans=")
        from fastadasp.contracts.spans import number_clips, number_runs

        audio = input_ids == token
        lengths = (inputs or {}).get(self.clip_lengths)
        return number_runs(audio) if lengths is None else number_clips(audio, lengths)

    def processor_inputs(
        self, processor: Any, waves: Sequence[NDArray[np.float32]], instructions: Sequence[str], rate: int
    ) -> Any:
        """What the model's processor makes of prompts of one recording and one instruction each, as one padded batch.

        Args:
            waves: mono float32 [samples] at `rate` Hz, one for each prompt.
            instructions: plain text; the processor's chat template wraps it.
        """
        texts = [
            processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            for messages in self.messages([""] * len(waves), instructions)
        ]
        return processor(text=texts, audio=list(waves), sampling_rate=rate, padding=True, return_tensors="pt")

    @staticmethod
    def messages(sounds: Sequence[Any], instructions: Sequence[str], key: str = "audio") -> list[list[dict[str, Any]]]:
        """Conversations of one user message each; `key` is what the template calls the sound."""
        return [
            [{"role": "user", "content": [{"type": "audio", key: sound}, {"type": "text", "text": instruction}]}]
            for sound, instruction in zip(sounds, instructions, strict=True)
        ]

    def side_inputs(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """What the model needs beside its decoder's embeddings: arguments by name, one row a sample, of fixed shape.

        `inputs` is what the processor made. Most families need nothing.
        """
        return {}


def follow(start: Any, path: str) -> Any:
    """The attribute at the end of a dotted path; None where it breaks off."""
    for part in path.split(".") if path else ():
        start = getattr(start, part, None)
    return start
