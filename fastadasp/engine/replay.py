"""What each layer of a prompt did, and one layer once more, as gradient checkpointing runs it in the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastadasp.engine.passes import Pass
from fastadasp.engine.stream import Reduction, Stream


@dataclass
class LayerWork:
    """What one layer did in a pass, which is all that is needed to do it again.

    Attributes:
        entered: the tokens that its attention saw.
        entry: the reduction of its input, at site ``input``.
        inside: the reduction between attention and MLP, at site ``block``.
        changed: keyword arguments that it was called with instead of the decoder's.
    """

    entered: Stream
    entry: Reduction | None = None
    inside: Reduction | None = None
    changed: dict[str, Any] | None = None


class ReplayedPass(Pass):
    """One layer of an earlier pass once more, as gradient checkpointing does in the backward pass.

    It decides nothing: the reductions are those that the layer made in the forward pass.
    """

    hooked = True

    def __init__(self, work: LayerWork) -> None:
        self._work = work

    def enter(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._work.entry is not None:
            states = args[0] if args else kwargs["hidden_states"]
            args, kwargs = with_states(args, kwargs, self._work.entry.reduce(states))
        return args, kwargs | (self._work.changed or {})

    def before_norm(self, index: int, states: Tensor) -> Tensor | None:
        return self.shorten(index, states)

    def shorten(self, index: int, states: Tensor) -> Tensor | None:
        return None if self._work.inside is None else self._work.inside.reduce(states)

    def expand(self, index: int, states: Tensor) -> Tensor:
        return states if self._work.inside is None else self._work.inside.expand(states)

    def leave(self, index: int, states: Tensor) -> Tensor:
        return states if self._work.inside is None else self._work.inside.reduce(states)


def with_states(
    args: tuple[Any, ...], kwargs: dict[str, Any], states: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A layer's arguments with other hidden states."""
    return ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})
