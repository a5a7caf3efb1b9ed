"""Names of arguments and fields that differ between releases of transformers.

Each is chosen by what the installed transformers has, never by its version number. Hooks see what a caller wrote:
transformers' own aliases help callers of ``forward``, not hooks. So whatever reads a call accepts every name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fastadasp.upstream.inside import BaseModelOutputWithPast

CACHE_NAMES = ("cache", "past_key_values")  # since 5.24; before it
_OUTPUT_FIELDS = {field.name for field in fields(BaseModelOutputWithPast)}

CACHE = next((name for name in CACHE_NAMES if name in _OUTPUT_FIELDS), CACHE_NAMES[0])
"""What this transformers calls the key/value cache: in ``forward``, in ``generate``, and in outputs."""


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The key/value cache among the keyword arguments of a call, under any of its names; None if there is none."""
    return next((arguments[name] for name in CACHE_NAMES if arguments.get(name) is not None), None)


def without_cache(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call without the key/value cache."""
    return {name: value for name, value in arguments.items() if name not in CACHE_NAMES}


def cache_of(output: Any) -> Any:
    """The key/value cache in the output of a model; None if it has none."""
    found = (getattr(output, name, None) for name in (CACHE, *CACHE_NAMES))
    return next((cache for cache in found if cache is not None), None)


def cache_argument(cache: Any) -> dict[str, Any]:
    """The keyword argument that hands a cache to ``forward`` or ``generate``."""
    return {CACHE: cache}


IGNORED = -100
"""The label that transformers' losses leave out."""

CHECKPOINT_FUNCTION = "_gradient_checkpointing_func"
"""The attribute of a layer with the function that runs its forward with gradient checkpointing."""


def checkpoints(layer: Any) -> bool:
    """Whether the layer's forward will be replayed in the backward pass."""
    on = getattr(layer, "gradient_checkpointing", False) and layer.training
    return bool(on) and getattr(layer, CHECKPOINT_FUNCTION, None) is not None


def causal_loss(model: Any, logits: Any, labels: Any, items: Any = None) -> Any:
    """The model's own loss of each token's logits against the token after it.

    Args:
        logits: float [B, T, words].
        labels: int64 [B, T], `IGNORED` for tokens that are left out.
        items: how many labels the sum is divided by; None for the number of those given.
    """
    more = {} if items is None else {"num_items_in_batch": items}
    return model.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **more)
