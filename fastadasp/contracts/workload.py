"""What a component has to work on at one acting layer, in numbers: its own cost follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

QUERIES_AT_ONCE = 128
"""Queries whose received attention is computed in one step, times all keys up to the last one's: enough for the matrix
product's full speed."""


@dataclass(frozen=True)
class Workload:
    """One clip at one acting layer; methods count what `LayerView` computes when it is asked, in multiply-adds.

    Attributes:
        tokens: audio tokens of the clip.
        removed: how many of them go.
        prompt: tokens of the clip's prompt that the layer has, text included.
        hidden: channels of the hidden states.
        heads, kv_heads: query heads, and key/value heads.
        head_dim: channels of one head.
        layer: the acting layer, 0-based.
        earlier: the layers before it in which the strategy acted, in their order.
        site: where it acts: ``input``, ``block`` or ``cache``.
        encoder_width: channels of a key of the audio encoder's last layer, the mean over its heads
            (`EncoderSeen.keys`); None where that is not known. What is read of the encoder is computed once for all
            components that need it, and counted apart from them.

    Example::

        >>> work = fastadasp.Workload(tokens=50, removed=25, prompt=60, hidden=64, heads=4, kv_heads=2, head_dim=16)
        >>> work.cosines(pairs=49, width=work.key_width)  # products of 49 pairs of keys, and the norms of 50
        3168
    """

    tokens: int
    removed: int
    prompt: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    layer: int = 0
    earlier: tuple[int, ...] = ()
    site: str = "block"
    encoder_width: int | None = None

    @property
    def kept(self) -> int:
        """Audio tokens that stay."""
        return self.tokens - self.removed

    @property
    def text(self) -> int:
        """Tokens of the prompt that are no audio."""
        return self.prompt - self.tokens

    @property
    def key_width(self) -> int:
        """Channels of a key, all key/value heads together."""
        return self.kv_heads * self.head_dim

    def cosines(self, pairs: int, width: int, tokens: int | None = None) -> int:
        """Cosines of `pairs` of vectors of `width` channels, and the norms of `tokens` vectors (all audio tokens)."""
        return (pairs + (self.tokens if tokens is None else tokens)) * width

    def cosine_to_next_key(self) -> int:
        """`LayerView.cosine_to_next_key`: along the whole prompt, with the norms."""
        return self.cosines(self.prompt - 1, self.key_width, self.prompt)

    def attention_rows(self, queries: int) -> int:
        """Attention of some queries to every key of the prompt, as `LayerView.attention_from` computes it."""
        return self.heads * min(queries, self.prompt) * self.prompt * self.head_dim

    def received_attention(self, queries: float = 1.0, which: Literal["strided", "last"] = "strided") -> int:
        """`LayerView.received_attention`: queries in blocks, each block times the keys that its last query can see."""
        step = 1 if which == "last" else max(1, round(1 / queries))
        asked = ceil(self.prompt * queries) if which == "last" else -(-self.prompt // step)
        first = self.prompt - 1 - (asked - 1) * step
        ends = [min(begin + QUERIES_AT_ONCE, asked) for begin in range(0, asked, QUERIES_AT_ONCE)]
        rows = zip([0, *ends], ends, strict=False)
        return self.heads * self.head_dim * sum((end - begin) * (first + (end - 1) * step + 1) for begin, end in rows)

    def means(self) -> int:
        """The means of a merge: one pass over the hidden states; two at site ``block``, before the MLP and after."""
        return (2 if self.site == "block" else 1) * self.prompt * self.hidden

    def anew(self, layers: int) -> bool:
        """Whether scores that serve `layers` layers from where they are computed are computed at this one."""
        last = None
        for layer in (*self.earlier, self.layer):
            if last is None or layer - last >= layers:
                last = layer
        return last == self.layer
