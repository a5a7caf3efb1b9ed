"""Attention masks for sequences that became shorter, in whatever form the model's attention takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastadasp.upstream.inside import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function, flash_attention_mask


def takes_padding(implementation: str) -> bool:
    """Whether an attention implementation takes a [batch, keys] padding mask, and knows what is causal itself.

    Flash attention does so under each of its names, those of the kernels hub included.
    """
    return ALL_MASK_ATTENTION_FUNCTIONS[implementation] is flash_attention_mask


def causal_mask(implementation: str, config: Any, states: Tensor, keys: int, valid: Tensor | None) -> Any:
    """The causal mask of queries `states` [B, T, D] over the last T of `keys` keys.

    Args:
        implementation: the attention implementation underneath, e.g. ``sdpa``.
        valid: bool [B, keys], False for padding; None if there is none.

    Returns:
        What that implementation takes: None, a bool or additive tensor [B, 1, T, keys], a [B, keys] padding mask...
    """
    batch, length = states.shape[:2]
    if length == 1 and valid is None and implementation == "sdpa":
        return None  # a decoding step that sees every key, as transformers finds itself, but in each layer anew
    valid = None if valid is None else valid.to(states.device)
    if takes_padding(implementation):
        return valid
    mask = ALL_MASK_ATTENTION_FUNCTIONS[implementation](
        batch_size=batch,
        q_length=length,
        kv_length=keys,
        q_offset=keys - length,
        kv_offset=0,
        mask_function=causal_mask_function,
        attention_mask=valid,
        # Asking whether padding is really there would wait for the device; the caller knows.
        allow_is_causal_skip=valid is None,
        dtype=states.dtype,
        config=config,
        use_vmap=False,
        device=states.device,
    )
    if valid is not None and isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.dim() == 4:
        # A padding query sees no key at all; let it see itself, so that no backend divides by zero.
        columns = torch.arange(keys, device=mask.device)
        mask = mask | (columns[keys - length :].unsqueeze(1) == columns)
    return mask
