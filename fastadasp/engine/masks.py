"""Attention masks for sequences that became shorter, in whatever form the model's attention takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastadasp.errors import ModelError
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
        valid: bool [B, keys], False for padding; None if there is none. Bool [B, heads, keys] where heads differ.

    Returns:
        What that implementation takes: None, a bool or additive tensor [B, 1, T, keys], a [B, keys] padding mask...
    """
    length = states.shape[1]
    if length == 1 and valid is None and implementation == "sdpa":
        return None  # a decoding step that sees every key, as transformers finds itself, but in each layer anew
    valid = None if valid is None else valid.to(states.device)
    if valid is not None and valid.dim() == 3:
        return _by_head(implementation, config, states, keys, valid)
    if takes_padding(implementation):
        return valid
    # Asking whether padding is really there would wait for the device; the caller knows.
    mask = _made(implementation, config, states, keys, valid, skip=valid is None)
    if valid is not None and isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.dim() == 4:
        # A padding query sees no key at all; let it see itself, so that no backend divides by zero.
        columns = torch.arange(keys, device=mask.device)
        mask = mask | (columns[keys - length :].unsqueeze(1) == columns)
    return mask


def _by_head(implementation: str, config: Any, states: Tensor, keys: int, valid: Tensor) -> Tensor:
    """The mask where each query head sees other keys: bool or additive, [B, heads, T, keys]."""
    if takes_padding(implementation):
        raise ModelError(
            f"heads that keep different numbers of keys need a mask for each head, which {implementation!r} does not "
            'take; load the model with attn_implementation="sdpa" or "eager", or take a strategy whose heads keep '
            "equally many"
        )
    length, columns = states.shape[1], torch.arange(keys, device=states.device)
    shown = valid.unsqueeze(2) | (columns[keys - length :].unsqueeze(1) == columns)  # a padding query sees itself
    mask: Tensor = _made(implementation, config, states, keys, None, skip=False)
    return mask & shown if mask.dtype == torch.bool else mask.masked_fill(~shown, torch.finfo(mask.dtype).min)


def _made(implementation: str, config: Any, states: Tensor, keys: int, valid: Tensor | None, *, skip: bool) -> Any:
    """What transformers makes for queries over the last of `keys` keys; nothing if it may `skip` a plain causal
    mask."""
    return ALL_MASK_ATTENTION_FUNCTIONS[implementation](
        batch_size=states.shape[0],
        q_length=states.shape[1],
        kv_length=keys,
        q_offset=keys - states.shape[1],
        kv_offset=0,
        mask_function=causal_mask_function,
        attention_mask=valid,
        allow_is_causal_skip=skip,
        dtype=states.dtype,
        config=config,
        use_vmap=False,
        device=states.device,
    )
