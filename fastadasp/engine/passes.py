"""Forward passes through the decoder, a class for each kind; this file has those that remove no tokens.

A pass belongs to one call in one thread. Its layers call it in their order: `enter`, `see`, `before_norm`, `expand` and
`leave`. What `Pass` itself does for each of them is nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastadasp.engine.cache import CacheState, Keys, count_seen, remember, stored
from fastadasp.engine.masks import causal_mask
from fastadasp.engine.spans import AudioSpans
from fastadasp.engine.stream import Stream
from fastadasp.errors import ModelError
from fastadasp.upstream.names import cache_in

if TYPE_CHECKING:
    from fastadasp.engine.session import Session


HIDES_EARLIER = (
    "the attention mask hides tokens that earlier calls with this cache have shown; after a reduction their keys stand "
    "elsewhere in each layer, so a mask may only grow: run the prompt again with the mask that you want"
)


@dataclass(frozen=True)
class Left:
    """The tokens of a prompt that are left.

    Attributes:
        columns: int64 [B, width], the prompt's column of each.
        valid: bool [B, width], False for padding; None if there is none.
        length: columns of the prompt.
    """

    columns: Tensor
    valid: Tensor | None
    length: int


class Pass:
    """A pass that is the plain model's affair: nothing is to be reduced and nothing was."""

    hooked = False
    """Whether every layer is to call it; if not, the first of each kind may be all that do."""
    looks = False
    """Whether it is to be shown queries and keys."""

    def enter(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before a layer; gives the arguments that it is called with instead, or None."""
        return None

    def attend(self, index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor | None:
        """The output of a layer's causal attention, [B, T, heads, D], if the pass computes it; None to leave it."""
        return None

    def see(self, index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
        """The queries, keys and values of the layer's attention."""

    def before_norm(self, index: int, states: Tensor) -> Tensor | None:
        """What the layer's second norm and MLP work on, of the hidden states after its attention; None for all."""
        return None

    def shorten(self, index: int, states: Tensor) -> Tensor | None:
        """The same for a later part of the layer that works on each token alone."""
        return None

    def expand(self, index: int, states: Tensor) -> Tensor:
        """What leaves such a part, with a row for each token that entered the layer."""
        return states

    def leave(self, index: int, states: Tensor) -> Tensor:
        """What leaves the layer."""
        return states

    def end(self) -> None:
        """After the decoder has run."""

    def left(self) -> Left | None:
        """Which tokens are left; None if none was removed."""
        return None


class DecodingPass(Pass):
    """One token more for a cache without padding, whose layers differ in length.

    The model's own mask, which is none, fits every layer. If it turns out that there is a mask, the pass hands over to
    one that makes masks.
    """

    def __init__(
        self, session: Session, cache: Any, known: CacheState, batch: int, seen: int, mask: Tensor | None
    ) -> None:
        self.session, self.cache, self.known, self.batch, self.seen = session, cache, known, batch, seen
        self.mask = mask

    def enter(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("attention_mask") is None:
            return None
        if self.session.implementation != "eager":  # which has a mask always, and looking at it would wait
            shown, mask = self.known.shown_to(self.batch), self.mask
            expected = [n + self.known.steps + 1 for n in shown]
            if shown and mask is not None and bool((mask.sum(1) != torch.tensor(expected, device=mask.device)).any()):
                raise ModelError(HIDES_EARLIER)
        stream = Stream((1,) * self.batch, 1, None, AudioSpans.none())
        following = FollowingPass(self.session, self.cache, self.known.settled(), stream, self.seen)
        self.session.run(following)
        for before in range(index):
            following.keys.append(following.join(before).keys)
        return following.enter(index, args, kwargs)

    def end(self) -> None:
        self.known.steps += 1


class FollowingPass(Pass):
    """Tokens that follow a prompt whose layers differ in length: each layer gets a mask over its own keys.

    Args:
        cache: the key/value cache; None if the decoder makes it, or if there is none.
        known: what each layer of it holds.
        stream: the tokens of this pass.
        seen: tokens of the model's whole sequence after this pass, as the plain model counts them.
    """

    hooked = True

    def __init__(self, session: Session, cache: Any, known: CacheState, stream: Stream, seen: int) -> None:
        self.session, self.cache, self.known, self.seen = session, cache, known, seen
        self.stream = self.plain_stream = stream
        self.keys: list[Keys] = []
        """Of each layer that this pass has entered, what its cache then holds."""
        self._joined: dict[tuple[int, int], _Joined] = {}

    def enter(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.cache is None:
            self.cache = cache_in(kwargs)
        joined = self.join(index)
        self.keys.append(joined.keys)
        if joined.keys.plain:
            return None
        states = args[0] if args else kwargs["hidden_states"]
        return args, kwargs | {"attention_mask": self._mask(joined, states)}

    def leave(self, index: int, states: Tensor) -> Tensor:
        if index == len(self.session.layers) - 1:
            self.finish()
        return states

    def finish(self) -> None:
        """After the last layer: keeps what the cache now holds."""
        if self.holds_keys() and len(self.keys) == len(self.session.layers):
            count_seen(self.cache, self.keys[0], self.seen)
            before = self.known.settled().shown_to(len(self.plain_stream.lengths))
            shown = tuple(a + b for a, b in zip(before, self.plain_stream.lengths, strict=False))
            remember(self.cache, CacheState(self.keys, shown=shown))

    def holds_keys(self, layer: int = 0) -> bool:
        """Whether there is a cache that a layer has written to (a layer that is checkpointed writes to none)."""
        return self.cache is not None and stored(self.cache, layer) > 0

    def join(self, index: int) -> _Joined:
        """A layer's keys once this pass has been through it."""
        old, stream = self.known.layers[index], self.stream
        name = (id(old), id(stream))
        if name not in self._joined:
            keys = old.then(stream, plain=stream is self.plain_stream)
            self._joined[name] = _Joined(old, stream, keys)
        return self._joined[name]

    def _mask(self, joined: _Joined, states: Tensor) -> Any:
        """The mask over `joined`'s keys, made once for all layers that share them."""
        if joined.mask is _UNSET:
            config, keys = self.session.decoder.config, joined.keys
            joined.mask = causal_mask(self.session.implementation, config, states, keys.length, keys.valid)
        return joined.mask.to(states.device) if isinstance(joined.mask, Tensor) else joined.mask


@dataclass
class _Joined:
    """A layer's old keys followed by this pass's; holds on to both so that their identities stay theirs."""

    old: Keys
    stream: Stream
    keys: Keys
    mask: Any = field(default_factory=lambda: _UNSET)


_UNSET: Any = object()
