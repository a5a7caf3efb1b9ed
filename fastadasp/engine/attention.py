"""Sees queries and keys where the model computes attention, through transformers' own `AttentionInterface`.

For each attention implementation a twin named ``fastadasp_<implementation>`` is registered. It calls the original and
then shows (module, query, key, value, scale, mask) to whoever watches that module. No attention matrix is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig

from fastadasp.engine.masks import takes_padding
from fastadasp.errors import ModelError
from fastadasp.upstream.inside import ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS

_PREFIX = "fastadasp_"
Watcher = Callable[[nn.Module, Tensor, Tensor, Tensor, float, Any], None]
"""Called after a module's attention with (module, query, key, value, scale, mask). A watcher with a method
``attend(query, key, value, scale)`` may compute a causal attention without a mask itself; it answers the output
[B, T, heads, D], or None to leave it to the implementation. One whose ``awake`` is False is not called."""
_MORE = ("position_bias", "softcap", "s_aux")
"""Arguments by which a model asks for more than queries, keys and values tell."""
_watchers: dict[int, dict[int, Watcher]] = {}
"""By the id of who watches, and then by the id of a module, so that each ends its own watching and nobody else's. A
watcher holds on to its module, or lives no longer than it."""


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
    flash = takes_padding(implementation)

    def watched(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **kwargs: Any
    ) -> Any:
        caller: Any = module
        if flash:
            # It reads its own name in the configuration, and takes gaps between positions for packed sequences.
            caller = _Seen(module, config=_Seen(module.config, _attn_implementation=implementation))
            kwargs.pop("position_ids", None)
        watchers = [] if torch.compiler.is_compiling() else _awake(module)
        if not watchers:
            return _original(module, implementation)(caller, query, key, value, attention_mask, **kwargs)
        given = kwargs.get("scaling")
        scale = query.shape[-1] ** -0.5 if given is None else float(given)
        output = None
        if implementation == "sdpa" and _plainly_causal(module, attention_mask, kwargs):
            for attend in [watcher.attend for watcher in watchers if hasattr(watcher, "attend")]:
                output = attend(query, key, value, scale) if output is None else output
        if output is None:
            result = _original(module, implementation)(caller, query, key, value, attention_mask, **kwargs)
        else:
            result = (output, None)
        for part in _parts(kwargs.get("cu_seq_lens_q")):
            for watcher in watchers:
                watcher(module, query[:, :, part], key[:, :, part], value[:, :, part], scale, attention_mask)
        return result

    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, watched)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
    return name


def _awake(module: nn.Module) -> list[Watcher]:
    """Whoever is to be shown this module's attention now."""
    found = [watchers.get(id(module)) for watchers in list(_watchers.values())]
    return [watcher for watcher in found if watcher is not None and getattr(watcher, "awake", True)]


def _plainly_causal(module: nn.Module, mask: Any, given: Mapping[str, Any]) -> bool:
    """Whether a call is causal attention without a mask and nothing else."""
    if mask is not None:
        return False
    causal = given.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return bool(causal) and not given.get("dropout") and all(given.get(name) is None for name in _MORE)


def _parts(bounds: Tensor | None) -> Iterator[slice]:
    """The sequences of a packed one, which attend to themselves alone, by their bounds; all of it if there are none."""
    if bounds is None:
        yield slice(None)
    else:
        yield from (slice(*pair) for pair in pairwise(bounds.tolist()))


class _Seen:
    """An object with some attributes in other values; everything else is the object's own."""

    def __init__(self, behind: Any, **other: Any) -> None:
        self.__dict__ |= {"_behind": behind} | other

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)


_holders: set[tuple[int, int]] = set()
"""Which application (its id) makes which configuration (its id) name the twin. Models may share a configuration."""


def implementation_of(config: PreTrainedConfig) -> str:
    """The attention implementation that the configuration names, or the one underneath its twin.

    Raises:
        ModelError: it cannot be watched.
    """
    implementation = _underneath(config)
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
    return implementation


def watch(owner: object, config: PreTrainedConfig, modules: Mapping[nn.Module, Watcher]) -> None:
    """From now on each module's watcher sees the queries, keys and values of its forward passes, until `unwatch`."""
    _watchers[id(owner)] = {id(module): watcher for module, watcher in modules.items()}
    _holders.add((id(config), id(owner)))
    _set(config, _twin(_underneath(config)))


def unwatch(owner: object, config: PreTrainedConfig) -> None:
    """Ends `watch`; the configuration is as it was once nobody watches. It may be called again after an interrupt."""
    _watchers.pop(id(owner), None)
    _holders.discard((id(config), id(owner)))
    heal(config)


def pause(owner: object, config: PreTrainedConfig) -> None:
    """Until `resume` the owner's watchers are asked nothing: the configuration names the implementation itself.

    A flash implementation stays watched, whose twin also keeps gaps between positions from it.
    """
    if not takes_padding(_underneath(config)):
        _holders.discard((id(config), id(owner)))
        heal(config)


def resume(owner: object, config: PreTrainedConfig) -> None:
    """Ends `pause`."""
    _holders.add((id(config), id(owner)))
    _set(config, _twin(_underneath(config)))


def heal(config: PreTrainedConfig) -> None:
    """Lets the configuration name the implementation itself if nobody watches."""
    if not _held(config) and str(config._attn_implementation).startswith(_PREFIX):
        _set(config, _underneath(config))
        if _held(config):  # by a thread that came in between
            _set(config, _twin(_underneath(config)))


def _held(config: PreTrainedConfig) -> bool:
    return any(held == id(config) for held, _ in list(_holders))


def _underneath(config: PreTrainedConfig) -> str:
    return str(config._attn_implementation or "eager").removeprefix(_PREFIX)


def _set(config: PreTrainedConfig, implementation: str) -> None:
    config._attn_implementation = {"": implementation}  # not that of configurations inside it
