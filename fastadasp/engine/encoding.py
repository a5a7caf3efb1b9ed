"""Sees the audio encoder's last attention as it runs, for strategies that need it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastadasp.contracts.adapter import ModelAdapter
from fastadasp.engine import attention
from fastadasp.engine.autocast import without_autocast
from fastadasp.engine.encoder import EncoderCall, EncoderSeen
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
            why = f" ({session.adapter.encoder_refusal})" if session.adapter.encoder_refusal else ""
            raise ModelError(
                f"strategy {session.strategy.name!r} looks at the attention of the audio encoder, which models of type "
                f"{session.adapter.name!r} do not show by audio token{why}; take a strategy that does not need it"
            )

    def begin(self) -> None:
        """From now on it is seen."""
        module: Any = self.module
        attention.watch(self, module.config, {module: self._see})

    def end(self) -> None:
        """Ends `begin`; may be called again."""
        module: Any = self.module
        attention.unwatch(self, module.config)

    def _see(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Any) -> None:
        arrival = self._session.calls.arrival
        if arrival is not None:
            arrival.encoder.append(EncoderCall(query.detach(), key.detach(), scale, mask))


@dataclass
class EncoderHeard:
    """What `listening` has seen: the attention of all windows that the encoder heard."""

    adapter: ModelAdapter
    model: nn.Module
    calls: list[EncoderCall] = field(default_factory=list)

    def clips(self, tokens: Sequence[int]) -> list[EncoderSeen | None]:
        """What was seen of each clip, in the order of the prompts; None of families that do not show it.

        Args:
            tokens: audio tokens of each clip.
        """
        if not self.calls:
            return [None] * len(tokens)
        seen = _together(self.adapter, self.model, self.calls, tokens)
        return [seen.clip(i, n) for i, n in enumerate(tokens)]


@contextmanager
def listening(adapter: ModelAdapter, model: nn.Module) -> Iterator[EncoderHeard]:
    """Sees the encoder's last attention while the context is open; nothing of families that do not show it."""
    heard, module = EncoderHeard(adapter, model), adapter.encoder_attention(model)

    def see(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Any) -> None:
        heard.calls.append(EncoderCall(query.detach(), key.detach(), scale, mask))

    if module is None:
        yield heard
        return
    config: Any = module.config
    attention.watch(heard, config, {module: see})
    try:
        yield heard
    finally:
        attention.unwatch(heard, config)


def _together(
    adapter: ModelAdapter, model: nn.Module, calls: Sequence[EncoderCall], tokens: Sequence[int]
) -> EncoderSeen:
    with torch.no_grad(), without_autocast(calls[0].query.device):
        frames = adapter.frames_of_token(model)
        return EncoderSeen.of_windows(calls, frames, tokens, hears_padding=adapter.encoder_hears_padding)


def seen_for(session: Session, tokens: tuple[int, ...], device: torch.device, *, plain: bool) -> EncoderSeen | None:
    """What is known of the encoder for the prompt's clips; None after a reduction, or where it was not seen.

    Args:
        tokens: audio tokens of each clip.

    Raises:
        ModelError: it ran on other recordings than the prompt has.
    """
    if not plain:
        return None
    arrival, clips = session.calls.arrival, len(tokens)
    if arrival is None or not (arrival.encoder or arrival.heard):
        seen = session.encoder_given
    else:
        if arrival.heard is None:
            arrival.heard = _together(session.adapter, session.model, arrival.encoder, tokens)
            arrival.encoder.clear()
        seen = arrival.heard
    if seen is None:
        return None
    if len(seen.keys) != clips:
        if clips % len(seen.keys):
            raise ModelError(f"the audio encoder saw {len(seen.keys)} recordings, but the prompt has {clips} clips")
        order = torch.arange(len(seen.keys)).repeat_interleave(clips // len(seen.keys))  # beams
        seen = EncoderSeen(*(getattr(seen, field.name)[order.to(seen.keys.device)] for field in fields(seen)))
    return seen.to(device)
