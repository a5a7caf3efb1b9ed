"""Sees the audio encoder's last attention as it runs, for strategies that need it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastadasp.contracts.adapter import ModelAdapter
from fastadasp.engine import attention
from fastadasp.engine.encoder import EncoderSeen
from fastadasp.errors import ModelError

if TYPE_CHECKING:
    from fastadasp.engine.session import Session


class EncoderWatch:
    """Sees the last attention of a model's audio encoder for as long as a strategy that needs it is applied.

    Raises:
        ModelError: the family does not show it.
    """

    def __init__(self, session: Session) -> None:
        self._session, self.module = session, session.adapter.encoder_attention(session.model)
        if self.module is None:
            raise ModelError(
                f"strategy {session.strategy.name!r} looks at the attention of the audio encoder, which models of type "
                f"{session.adapter.name!r} do not show by audio token; take a strategy that does not need it"
            )

    def begin(self) -> None:
        """From now on it is seen."""
        module: Any = self.module
        attention.watch(self, module.config, {module: self._see})

    def end(self) -> None:
        """Ends `begin`; may be called again."""
        module: Any = self.module
        attention.unwatch(self, module.config, [module])

    def _see(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Any) -> None:
        arrival = self._session.calls.arrival
        if arrival is not None:
            with torch.no_grad():
                arrival.encoder = EncoderSeen.of(query, key, scale, mask, self._session.adapter.encoder_frames)


@dataclass
class EncoderHeard:
    """What `listening` has seen; None before the encoder ran."""

    seen: EncoderSeen | None = None


@contextmanager
def listening(adapter: ModelAdapter, model: nn.Module) -> Iterator[EncoderHeard]:
    """Sees the encoder's last attention while the context is open; nothing of families that do not show it."""
    heard, module = EncoderHeard(), adapter.encoder_attention(model)

    def see(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Any) -> None:
        with torch.no_grad():
            heard.seen = EncoderSeen.of(query, key, scale, mask, adapter.encoder_frames)

    if module is None:
        yield heard
        return
    config: Any = module.config
    attention.watch(heard, config, {module: see})
    try:
        yield heard
    finally:
        attention.unwatch(heard, config, [module])


def seen_for(session: Session, clips: int, device: torch.device, *, plain: bool) -> EncoderSeen | None:
    """What is known of the encoder for the prompt's `clips`; None after a reduction, or where it was not seen.

    Raises:
        ModelError: it ran on another number of recordings than the prompt has.
    """
    arrival = session.calls.arrival
    seen = session.encoder_given if arrival is None or arrival.encoder is None else arrival.encoder
    if seen is None or not plain:
        return None
    if len(seen.keys) != clips:
        if clips % len(seen.keys):
            raise ModelError(f"the audio encoder saw {len(seen.keys)} recordings, but the prompt has {clips} clips")
        order = torch.arange(len(seen.keys)).repeat_interleave(clips // len(seen.keys))  # beams
        seen = EncoderSeen(*(getattr(seen, field.name)[order.to(seen.keys.device)] for field in fields(seen)))
    return seen.to(device)
