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
        result = _original(module, implementation)(module, query, key, value, mask, **kwargs)
        watcher = None if torch.compiler.is_compiling() else _watchers.get(module)
        if watcher is not None:
            scale = kwargs.get("scaling")
            watcher(module, query, key, query.shape[-1] ** -0.5 if scale is None else float(scale))
        return result

    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, watched)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
    return name


@contextmanager
def watching(config: PreTrainedConfig, modules: dict[nn.Module, Watcher]) -> Iterator[str]:
    """While open, each module's watcher sees the queries and keys of its forward passes.

    Yields the implementation the model uses underneath. On leaving, the configuration is as it was.
    """
    implementation = config._attn_implementation or "eager"
    if implementation.startswith("flash"):
        raise ModelError(
            f"attention implementation {implementation!r} is not supported yet; "
            'load the model with attn_implementation="sdpa" (which uses flash kernels itself where it can)'
        )
    if implementation not in ALL_MASK_ATTENTION_FUNCTIONS:
        raise ModelError(f'attention implementation {implementation!r} is not supported; use "sdpa" or "eager"')
    before = config._attn_implementation
    _watchers.update(modules)
    try:
        config._attn_implementation = {"": _twin(implementation)}  # not that of configurations inside it
        yield implementation
    finally:
        config._attn_implementation = {"": before}
        for module in modules:
            _watchers.pop(module, None)
