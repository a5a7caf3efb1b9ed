"""Everything of vLLM that fastadasp touches: the only module that imports it, so that a new release is checked here.

Methods that are overridden, and so must exist: `_apply_hf_processor_main`, `_get_mm_fields_config`,
`_get_prompt_updates`, `_maybe_apply_prompt_updates`, `get_dummy_mm_inputs` and `apply` of processors;
`embed_multimodal`, `embed_input_ids`, `forward` and `get_mrope_input_positions` of models. The last receives features
whose `mm_position` is the placeholder's place. A model's `forward` receives positions [3, tokens] in the buffer that is
read afterwards.
tests/serving/test_vllm_contract.py holds these names and what they take.
"""

from __future__ import annotations

from typing import Any

from vllm.logger import init_logger
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.model_executor.models.interfaces import SupportsMRoPE
from vllm.model_executor.models.registry import ModelRegistry
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.processing import BaseMultiModalProcessor, PromptReplacement, PromptUpdateDetails
from vllm.multimodal.processing.processor import PlaceholderFeaturesInfo

__all__ = [
    "MODELS_CONFIG_MAP",
    "MULTIMODAL_REGISTRY",
    "BaseMultiModalProcessor",
    "ModelRegistry",
    "MultiModalFieldConfig",
    "MultiModalKwargsItems",
    "PlaceholderFeaturesInfo",
    "PromptReplacement",
    "PromptUpdateDetails",
    "SupportsMRoPE",
    "VerifyAndUpdateConfig",
    "factories",
    "logger",
    "stock_model",
]

logger = init_logger("vllm.fastadasp")


def stock_model(architecture: str) -> type[Any]:
    """vLLM's own class for an architecture."""
    model: type[Any] = ModelRegistry.models[architecture].load_model_cls()
    return model


def factories(model: type[Any]) -> tuple[Any, Any, Any]:
    """How vLLM prepares audio for a model class: its processor, its processing info, its dummy inputs."""
    found = model._processor_factory
    return found.processor, found.info, found.dummy_inputs
