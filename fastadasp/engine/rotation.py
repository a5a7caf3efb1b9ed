"""How a layer turns its queries and keys by their positions (rotary embedding), for scorers that look ahead."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastadasp.ops import turn

if TYPE_CHECKING:
    from fastadasp.engine.session import Session
    from fastadasp.engine.stream import Stream


@dataclass(frozen=True)
class Rotation:
    """The rotary embedding of one layer. Channels i and i + r / 2 turn together; those after the first r do not.

    Attributes:
        cos, sin: of this pass's tokens, [B or 1, T, r].
        follows: int64 [B], the first position after each sample's prompt.
        embed: from positions int64 [B, m] to their cosines and sines, [B, m, r] each.
    """

    cos: Tensor
    sin: Tensor
    follows: Tensor
    embed: Callable[[Tensor], tuple[Tensor, Tensor]]

    def to(self, device: torch.device) -> Rotation:
        """The same on a device (a model may lie on several)."""
        own = self.follows.device
        if own == device:
            return self

        def embed(wanted: Tensor) -> tuple[Tensor, Tensor]:
            cos, sin = self.embed(wanted.to(own))
            return cos.to(device), sin.to(device)

        return Rotation(self.cos.to(device), self.sin.to(device), self.follows.to(device), embed)

    def undo(self, x: Tensor) -> Tensor:
        """Queries [B, heads, T, head_dim] as they were before they were turned, float32."""
        cos, sin = (part.float().unsqueeze(1) for part in (self.cos, self.sin))
        size = cos.square() + sin.square()  # some models scale by it
        return turn(x.float(), cos / size, -sin / size)

    def ahead(self, count: int) -> tuple[Tensor, Tensor]:
        """Mean cosines and sines of the `count` positions after the prompt, float32 [B, r] each."""
        steps = torch.arange(count, device=self.follows.device)
        cos, sin = self.embed(self.follows.unsqueeze(1) + steps)
        return cos.float().mean(1), sin.float().mean(1)


def rotation_of(
    session: Session, index: int, given: Any, positions: Tensor | None, stream: Stream, query: Tensor
) -> Rotation | None:
    """The rotation of a layer's queries, which may be none at all; None where it is one that other channels turn by.

    Args:
        index: the layer.
        given: its ``position_embeddings``.
        positions: the decoder's position ids, [B or 1, T] or [axes, B or 1, T].
        stream: the tokens of the prompt that are left.
        query: the layer's queries.
    """
    if positions is None:
        return None
    places = positions if positions.dim() == 2 else positions[-1]
    follows = (places.amax(1) + 1).to(query.device).expand(len(stream.lengths))
    if given is None:  # a layer without rotary embedding
        still = torch.ones(1, 1, 2, device=query.device)
        return Rotation(still, still * 0, follows, lambda wanted: (still, still * 0))
    if not isinstance(given, tuple | list) or len(given) != 2 or not _turns_halves(session, index):
        return None
    cos, sin = (_of_one_axis(part).to(query.device) for part in given)  # taken before the layer's own were moved

    def embed(wanted: Tensor) -> tuple[Tensor, Tensor]:
        made = session.adapter.rotary_embeddings(session.decoder, query, wanted, index)
        return _of_one_axis(made[0]), _of_one_axis(made[1])

    return Rotation(cos, sin, follows, embed)


def _of_one_axis(part: Tensor) -> Tensor:
    """[B, T, r]; of [axes, B, T, r] the last, since axes are alike for audio and text."""
    return part if part.dim() == 3 else part[-1]


def _turns_halves(session: Session, index: int) -> bool:
    """Whether the model's own function turns channels i and i + r / 2 together (some turn neighbours)."""
    attention = getattr(session.layers[index], session.adapter.attention)
    turns = getattr(sys.modules[type(attention).__module__], "rotate_half", None)
    return turns is not None and torch.equal(turns(torch.arange(4)), torch.tensor([-2, -3, 0, 1]))
