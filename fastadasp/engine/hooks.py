"""Hooks on a model's modules that know whose they are, so that they can all be found again and taken off."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from fastadasp.engine.attention import heal, pause, resume


class Hook:
    """A hook that belongs to one application of a strategy.

    A copy of it, made by copying or pickling the model, does nothing: the copy of a model is a plain model.

    Args:
        owner: the application.
        run: called with the hook's arguments.
        compiled: whether `torch.compile` traces it; if not, it is left out of compiled code.
        rests: whether `LayerHooks` takes it off while no pass needs it.
    """

    def __init__(self, owner: object, run: Callable[..., Any], *, compiled: bool = False, rests: bool = False) -> None:
        self.owner, self._run, self._compiled, self.rests = owner, run, compiled, rests

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


@dataclass(frozen=True)
class _Place:
    """Where a hook belongs: among `hooks`, under `key`, after those of `before`."""

    hooks: OrderedDict[int, Any]
    key: int
    hook: Hook
    before: frozenset[int]

    def take(self) -> None:
        """Puts the hook there, unless it is there."""
        if self.key in self.hooks:
            return
        self.hooks[self.key] = self.hook
        for other in [key for key in list(self.hooks) if key != self.key and key not in self.before]:
            self.hooks.move_to_end(other)


class LayerHooks:
    """The hooks of a session's layers, which rest while no thread is in a pass that needs them.

    A module with hooks takes torch's slow way through a call, in every layer of every decoding step. Hooks that rest
    are off their modules, but keep their places among those of others, and torch's notes on how to call them. While
    they rest nobody looks at queries and keys, either.

    Args:
        owner: whose hooks they are.
        modules: the modules that carry them.
        config: gives the configuration of the modules.
    """

    def __init__(
        self, owner: object, modules: Callable[[], Iterable[nn.Module]], config: Callable[[], PreTrainedConfig]
    ) -> None:
        self._owner, self._modules, self._config = owner, modules, config
        self._lock = threading.Lock()
        self._away: tuple[_Place, ...] = ()
        self._users, self._awake = 0, False

    def rest(self) -> None:
        """Takes them off, if nobody holds them."""
        if self._away or self._awake or self._users:
            return
        with self._lock:
            if not (self._away or self._awake or self._users):
                self._away = tuple(place for module in self._modules() for place in self._places(module))
                for place in self._away:
                    place.hooks.pop(place.key, None)
                pause(self._owner, self._config())

    def hold(self) -> None:
        """Has them on until `release`; threads may hold them at the same time."""
        with self._lock:
            self._users += 1
            self._return()

    def release(self) -> None:
        """Ends `hold`."""
        with self._lock:
            self._users -= 1

    def stay(self) -> None:
        """Has them on for good."""
        if not self._awake:
            with self._lock:
                self._return()
                self._awake = True

    def _return(self) -> None:
        if self._away:
            resume(self._owner, self._config())
        for place in self._away:
            place.take()
        self._away = ()

    def _places(self, module: nn.Module) -> Iterable[_Place]:
        both: tuple[Any, ...] = (module._forward_pre_hooks, module._forward_hooks)
        for hooks in both:
            keys = list(hooks)
            for number, key in enumerate(keys):
                hook: Any = hooks[key]
                if getattr(hook, "owner", None) is self._owner and hook.rests:
                    yield _Place(hooks, key, hook, frozenset(keys[:number]))
