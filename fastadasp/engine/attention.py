"""Sees queries and keys where the model computes attention, through transformers' own `AttentionInterface`.

For each attention implementation a twin named ``fastadasp_<implementation>`` is registered. It calls the original and
then shows (module, query, key, scale) to whoever watches that module. No attention matrix is asked for.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fastadasp.engine.masks import takes_padding
from fastadasp.errors import ModelError

_PREFIX = "fastadasp_"
Watcher = Callable[[nn.Module, Tensor, Tensor, float], None]
_watchers: weakref.WeakKeyDictionary[nn.Module, Watcher] = weakref.WeakKeyDictionary()


def _original(module: nn.Module, implementation: str) -> Callable[..., Any]:
    """The attention function that `module` would call; eager ones live in each model's own file."""
    if implementation == "eager":
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if eager is None:
            raise ModelError(
                f"{type(module).__name__} has no eager attention function of its own; "
                'load the model with attn_implementation="sdpa"'
            )
        function: Callable[..., Any] = eager
    else:
        function = ALL_ATTENTION_FUNCTIONS[implementation]
    return function


def _twin(implementation: str) -> str:
    """Registers (once) and names the watching twin of an attention implementation."""
    name = _PREFIX + implementation

    def watched(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        caller: Any = module
        if takes_padding(implementation):
            # It reads its own name in the configuration, and takes gaps between positions for packed sequences.
            caller = _Seen(module, config=_Seen(module.config, _attn_implementation=implementation))
            kwargs.pop("position_ids", None)
        result = _original(module, implementation)(caller, query, key, value, mask, **kwargs)
        watcher = None if torch.compiler.is_compiling() else _watchers.get(module)
        if watcher is not None:
            scale = kwargs.get("scaling")
            watcher(module, query, key, query.shape[-1] ** -0.5 if scale is None else float(scale))
        return result

    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, watched)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
    return name


class _Seen:
    """An object with some attributes in other values; everything else is the object's own."""

    def __init__(self, behind: Any, **other: Any) -> None:
        self.__dict__ |= {"_behind": behind} | other

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)


@contextmanager
def watching(config: PreTrainedConfig, modules: dict[nn.Module, Watcher]) -> Iterator[str]:
    """While open, each module's watcher sees the queries and keys of its forward passes.

    Yields the implementation the model uses underneath. On leaving, the configuration is as it was.
    """
    implementation = config._attn_implementation or "eager"
    if implementation == "flex_attention":
        raise ModelError(
            "attention implementation 'flex_attention' is not supported: it compiles a kernel for each length, and "
            'with a strategy every layer and prompt has its own; use "sdpa", "eager" or flash attention'
        )
    if implementation not in ALL_MASK_ATTENTION_FUNCTIONS or implementation.startswith("paged"):
        raise ModelError(
            f"attention implementation {implementation!r} is not supported; "
            'use "sdpa", "eager", "flash_attention_2", "flash_attention_3" or a flash kernel of the hub'
        )
    before = config._attn_implementation
    _watchers.update(modules)
    try:
        config._attn_implementation = {"": _twin(implementation)}  # not that of configurations inside it
        yield implementation
    finally:
        config._attn_implementation = {"": before}
        for module in modules:
            _watchers.pop(module, None)
