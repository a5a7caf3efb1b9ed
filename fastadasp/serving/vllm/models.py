"""Model classes of vLLM whose audio is shortened between encoder and decoder, made from vLLM's own."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from fastadasp.engine.features import reduce_to
from fastadasp.errors import ModelError
from fastadasp.serving.options import PREFIX
from fastadasp.serving.vllm.config import serving_of
from fastadasp.serving.vllm.positions import Clip, pack, places_of, rows
from fastadasp.serving.vllm.private import MULTIMODAL_REGISTRY, SupportsMRoPE, factories, stock_model
from fastadasp.serving.vllm.processor import KEPT, TOKENS, ReducedInfo, ReducedProcessor
from fastadasp.serving.vllm.remembered import Counts


class Reduced:
    """Mixin of a model class.

    With ``original`` positions the survivors' places, known only when the audio is encoded, ride as two more channels
    of the embeddings; `embed_input_ids` takes them off and `forward` writes the positions.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        served = serving_of(vllm_config.model_config)
        self.strategy, self.decoder_layers = served.strategy, served.layers
        self.hidden = int(vllm_config.model_config.hf_text_config.hidden_size)
        self.full = Counts()
        self.pending: tuple[Tensor, Tensor] | None = None

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """The clips' features, shortened."""
        kwargs.pop(TOKENS, None)
        counts = kwargs.pop(KEPT, None)
        clips = super().embed_multimodal(**kwargs)  # type: ignore[misc]
        if counts is None or len(clips) == 0:
            return clips
        kept = [int(n) for n in torch.as_tensor(counts).flatten()]
        with torch.no_grad():
            short = reduce_to(self.strategy, list(clips), self.decoder_layers, kept)
        if self.strategy.positions != "original":
            return tuple(clip.features for clip in short)
        return tuple(pack(clip.features, clip.places) for clip in short)

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Positions [3, tokens] of a prompt whose placeholders are short, and how far they are ahead of its length."""
        clips = []
        for feature in sorted(mm_features, key=lambda f: f.mm_position.offset):
            at = feature.mm_position
            if feature.data is not None and TOKENS in feature.data:
                self.full.put(feature.identifier, int(feature.data[TOKENS].data))
            embed = range(at.length) if at.is_embed is None else at.is_embed.nonzero().flatten().tolist()
            columns = [at.offset + i for i in embed]
            tokens = len(columns) if self.strategy.positions == "compact" else self.full.get(feature.identifier)
            if tokens is None:
                raise ModelError("a clip came from a cache that did not say how many audio tokens it had")
            clips.append(Clip(columns, tokens))
        return rows(len(input_tokens), clips, wait=self.strategy.positions == "original")

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None, **more: Any
    ) -> Tensor:
        """The embeddings of a prompt; keeps the places of its audio for `forward`."""
        if (
            is_multimodal is not None
            and multimodal_embeddings is not None
            and len(multimodal_embeddings)
            and multimodal_embeddings[0].shape[-1] > self.hidden
        ):
            self.pending = is_multimodal.clone(), places_of(list(multimodal_embeddings))
            multimodal_embeddings = [clip[:, : self.hidden] for clip in multimodal_embeddings]
        embeds: Tensor = super().embed_input_ids(  # type: ignore[misc]
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal, **more
        )
        return embeds

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **more: Any,
    ) -> Any:
        """The decoder; audio embedded in this step gets its own positions first, in place."""
        if self.pending is not None:
            mask, places = self.pending
            self.pending = None
            at = mask.to(positions.device).nonzero().flatten()
            positions[:, at] = positions[1, at] + places.to(positions.device)
        return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds, **more)  # type: ignore[misc]


@cache
def make(architecture: str) -> type[Any]:
    """The class of a family whose audio is shortened; `architecture` is vLLM's name of it."""
    stock = stock_model(architecture)
    processor, info, dummy = factories(stock)
    name = PREFIX + architecture
    made = type(name, (Reduced, stock, SupportsMRoPE), {"__module__": __name__})
    short_processor = type(f"{name}Processor", (ReducedProcessor, processor), {"__module__": __name__})
    short_info = type(f"{name}Info", (ReducedInfo, info), {"__module__": __name__})
    register = MULTIMODAL_REGISTRY.register_processor(short_processor, info=short_info, dummy_inputs=dummy)
    registered: type[Any] = register(made)
    return registered


def __getattr__(name: str) -> type[Any]:
    """vLLM asks for a class by the name that was registered."""
    if name.startswith(PREFIX):
        return make(name.removeprefix(PREFIX))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
