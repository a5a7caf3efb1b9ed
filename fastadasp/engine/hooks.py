"""Hooks on a model's modules that know whose they are, so that they can all be found again and taken off."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from fastadasp.engine.attention import heal


class Hook:
    """A hook that belongs to one application of a strategy.

    A copy of it, made by copying or pickling the model, does nothing: the copy of a model is a plain model.

    Args:
        owner: the application.
        run: called with the hook's arguments.
        compiled: whether `torch.compile` traces it; if not, it is left out of compiled code.
    """

    def __init__(self, owner: object, run: Callable[..., Any], *, compiled: bool = False) -> None:
        self.owner, self._run, self._compiled = owner, run, compiled

    def __call__(self, *args: Any) -> Any:
        if not self._compiled and torch.compiler.is_compiling():
            return None
        return self._run(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> CopiedHook:
        return CopiedHook()

    def __reduce__(self) -> tuple[type[CopiedHook], tuple[()]]:
        return CopiedHook, ()


class CopiedHook:
    """What is left of a hook on a copied model. It puts the copy's attention setting right and does nothing else."""

    def __call__(self, module: nn.Module, *_: Any) -> None:
        config = getattr(module, "config", None)
        if config is not None and not torch.compiler.is_compiling():
            heal(config)


def remove(owner: object, modules: Iterable[nn.Module]) -> None:
    """Takes every hook of `owner` off these modules. It may be called again after it was interrupted."""
    for module in modules:
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in list(hooks.items()) if getattr(hook, "owner", None) is owner]:
                # torch keeps the options of a hook apart from it
                module._forward_pre_hooks_with_kwargs.pop(key, None)
                module._forward_hooks_with_kwargs.pop(key, None)
                module._forward_hooks_always_called.pop(key, None)
                hooks.pop(key, None)
