"""What the decoder gives its layers for each token (positions, rotary embeddings), for the tokens that are left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadasp.engine.stream import Reduction, Stream, places, put
from fastadasp.errors import ModelError

Rotary = Callable[[Tensor, Tensor, int], Any]


class Survivors:
    """Follows the tokens of one prompt through its reductions.

    A cluster has the positions of its first token. With compact positions every survivor moves up by the number of
    tokens removed after it, so that the prompt ends where it ended and has no gaps. With even positions a clip's m
    survivors stand at equal steps over the n positions of their clip: the j-th, from 0, takes the place ``j * n // m``.

    Args:
        stream: the prompt as it enters the decoder.
        positions: the decoder's own position ids, [B or 1, T] or [axes, B or 1, T].
        rotary: from states, positions and the layer's index to rotary embeddings, for compact positions; None to keep
            the tokens' own.
        even: spread each clip's survivors evenly over its span; only without `rotary`.
    """

    def __init__(self, stream: Stream, positions: Tensor, rotary: Rotary | None, *, even: bool = False) -> None:
        self._stream, self._positions, self._rotary, self._even = stream, positions, rotary, even
        self._columns: Tensor | None = None
        self._seats: Tensor | None = None  # the columns whose positions survivors take, where those are not their own
        self._made: dict[tuple[int, torch.device], tuple[Any, Any]] = {}

    def follow(self, reduction: Reduction, left: Stream) -> None:
        """Takes one more reduction into account, with the stream that is left after it."""
        old, new = self._columns, reduction.source
        self._columns = new if old is None else old.to(new.device).gather(1, new)
        if self._even:
            self._seats = self._spread(self._columns, left)
        self._made.clear()

    @property
    def columns(self) -> Tensor | None:
        """The prompt's column of each token that is left, int64 [B, width]; None before the first reduction.

        What stands in padding means nothing.
        """
        return self._columns

    def arguments(self, given: dict[str, Any], states: Tensor, layer: int) -> dict[str, Any]:
        """The position arguments among a layer's keyword arguments, for the survivors; none before a reduction.

        Args:
            given: the keyword arguments as the decoder gave them, for the whole prompt.
            states: the survivors' hidden states [B, width, D].
            layer: the layer's index.
        """
        if self._columns is None:
            return {}
        columns = (self._columns if self._seats is None else self._seats).to(states.device)
        changed: dict[str, Any] = {}
        if given.get("position_ids") is not None:
            changed["position_ids"] = self._once(given["position_ids"], columns, lambda x: self._place(x, columns))
        if given.get("position_embeddings") is not None:
            changed["position_embeddings"] = self._once(
                given["position_embeddings"],
                columns,
                lambda x: (
                    _select(x, columns, 2)
                    if self._rotary is None
                    else self._rotary(states, self._place(self._positions, columns), layer)
                ),
            )
        return changed

    def _spread(self, columns: Tensor, left: Stream) -> Tensor:
        """The survivors' columns, int64 [B, width], with those of each clip at equal steps over the clip's span."""
        spans, now = self._stream.to(columns.device).spans, left.to(columns.device).spans
        steps = torch.arange(now.longest, device=columns.device)
        seats = spans.start.unsqueeze(1) + steps * spans.counts.unsqueeze(1) // now.counts.clamp_min(1).unsqueeze(1)
        wide = torch.nn.functional.pad(columns, (0, 1))
        return put(wide, places(now, columns.shape[1]), seats)[:, :-1]

    def _once(self, given: Any, columns: Tensor, make: Callable[[Any], Any]) -> Any:
        """Layers share what the decoder made once; so do they here. Keeps `given`, so that its id stays its own."""
        key = (id(given), columns.device)
        if key not in self._made:
            self._made[key] = (given, make(given))
        return self._made[key][1]

    def _place(self, positions: Tensor, columns: Tensor) -> Tensor:
        """The survivors' positions."""
        kept: Tensor = _select(positions, columns, 1)
        if self._rotary is None:
            return kept
        width = self._stream.width
        valid = self._stream.valid
        if valid is None:
            after = width - 1 - columns
        else:
            valid = valid.to(columns.device)
            after = (valid.sum(1, keepdim=True) - valid.cumsum(1)).gather(1, columns)
        left = torch.arange(columns.shape[1] - 1, -1, -1, device=columns.device)
        return (kept + after - left).clamp_min(0)


def _select(given: Any, columns: Tensor, trailing: int) -> Any:
    """Columns of tensors [..., B or 1, T, ...] with `trailing` axes from T on; of each of a tuple."""
    if isinstance(given, tuple | list):
        return tuple(_select(part, columns, trailing) for part in given)
    if not isinstance(given, Tensor) or given.dim() < trailing + 1:
        raise ModelError(f"the decoder gives its layers positions as {type(given).__name__}, which cannot be shortened")
    given = given.to(columns.device)
    if given.dim() > trailing + 1:
        return torch.stack([_select(part, columns, trailing) for part in given.unbind(0)])
    index = columns.reshape(*columns.shape, *(1,) * (trailing - 1))
    given = given.expand(columns.shape[0], *given.shape[1:])
    return given.gather(1, index.expand(-1, -1, *given.shape[2:]))
