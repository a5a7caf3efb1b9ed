"""WavLLM as a model family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastadasp.contracts.adapter import ModelAdapter
from fastadasp.contracts.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn


class WavLLMAdapter(ModelAdapter):
    """The scale of the LoRA follows from the instruction, which embeddings no longer tell."""

    def side_inputs(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Tensor]:
        scaled: Any = model
        return {"lora_scale": scaled.prompt_scale(inputs["prompt_ids"], inputs["prompt_mask"])}


@hookimpl
def fastadasp_models() -> list[ModelAdapter]:
    return [
        WavLLMAdapter(
            name="wavllm",
            summary="WavLLM, converted by fastadasp convert wavllm",
            decoder_paths=("language_model",),
            module="fastadasp.models.wavllm.model",
            encoder_refusal="their audio tokens join two encoders of unlike frames",
        )
    ]
