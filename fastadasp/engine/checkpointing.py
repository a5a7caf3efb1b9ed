"""Gradient checkpointing: a layer runs once more in the backward pass, and must then do what it did.

transformers gives each layer a checkpointing function, which gets the layer's forward and its arguments. While a
strategy is applied, one of ours stands before it: it remembers the pass that is going on, and makes the layer's hooks
do the same again when the forward is replayed. That may happen in another thread, and after the context was left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from fastadasp.engine import hooks
from fastadasp.engine.reducing import ReducingPass
from fastadasp.engine.replay import ReplayedPass
from fastadasp.upstream.names import CHECKPOINT_FUNCTION, checkpoints

if TYPE_CHECKING:
    from torch import nn

    from fastadasp.engine.session import Session


class _Remembering:
    """A layer's checkpointing function with a memory."""

    def __init__(self, session: Session, index: int, original: Callable[..., Any]) -> None:
        self.session, self.index, self.original = session, index, original

    def __call__(self, forward: Callable[..., Any], *args: Any) -> Any:
        running = self.session.calls.running
        if not isinstance(running, ReducingPass):
            return self.original(forward, *args)
        begun = False

        def run(*given: Any) -> Any:
            nonlocal begun
            if not begun:
                begun = True
                return forward(*given)
            return self._replay(running, forward, given)

        return self.original(run, *args)

    def _replay(self, running: ReducingPass, forward: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        calls, owner = self.session.calls, object()
        before, calls.running = calls.running, ReplayedPass(running.work[self.index])
        modules = list(self.session.layer_modules(self.index))
        self.session.layer_hooks.hold()
        try:
            if not _hooked(self.session, modules):
                self.session.hook_layer(self.index, owner)
            return forward(*given)
        finally:
            hooks.remove(owner, modules)
            self.session.layer_hooks.release()
            calls.running = before

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        return self.original

    def __reduce__(self) -> Any:
        return _same, (self.original,)


def _same(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _hooked(session: Session, modules: list[nn.Module]) -> bool:
    return any(getattr(hook, "owner", None) is session for hook in modules[0]._forward_hooks.values())


def prepare(session: Session) -> None:
    """Before a pass: sees to it that every layer that is checkpointed remembers."""
    if not torch.is_grad_enabled():
        return
    for index, layer in enumerate(session.layers):
        if checkpoints(layer):
            function = getattr(layer, CHECKPOINT_FUNCTION)
            if not (isinstance(function, _Remembering) and function.session is session):
                setattr(layer, CHECKPOINT_FUNCTION, _Remembering(session, index, function))


def restore(session: Session) -> None:
    """Gives every layer its own function back."""
    for layer in session.layers:
        function = getattr(layer, CHECKPOINT_FUNCTION, None)
        if isinstance(function, _Remembering) and function.session is session:
            setattr(layer, CHECKPOINT_FUNCTION, function.original)
