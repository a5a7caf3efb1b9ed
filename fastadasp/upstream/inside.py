"""What models of transformers are made of, and this package takes from where it is: attention, masks, layers of caches.

None of it is in the documented top level of transformers, so a release may move it. The rest of this package takes
it from here, which makes a move one line.
"""

from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticLayer
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    causal_mask_function,
    create_causal_mask,
    flash_attention_mask,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

__all__ = [
    "ALL_ATTENTION_FUNCTIONS",
    "ALL_MASK_ATTENTION_FUNCTIONS",
    "BaseModelOutputWithPast",
    "CausalLMOutputWithPast",
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "GradientCheckpointingLayer",
    "LlamaDecoderLayer",
    "LlamaModel",
    "StaticLayer",
    "WhisperEncoder",
    "causal_mask_function",
    "create_causal_mask",
    "flash_attention_mask",
]
