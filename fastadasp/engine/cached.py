"""What scorers and mergers see of a cache that evicts again while an answer grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NoReturn

import torch
from torch import Tensor

from fastadasp.engine.heads import valid_by_head
from fastadasp.engine.received import Which, received_attention
from fastadasp.engine.spans import AudioSpans
from fastadasp.engine.view import LayerView
from fastadasp.errors import StrategyError


@dataclass(frozen=True)
class CachedSpans(AudioSpans):
    """Keys that may go, a row a clip, or a clip and head.

    Attributes:
        places: int64 [rows, N], where they stand among all keys of their sample.
    """

    places: Tensor = field(kw_only=True)

    @classmethod
    def of(
        cls, clip: Tensor, sample: Tensor, number: Tensor, tokens: Sequence[int], samples: Sequence[int]
    ) -> AudioSpans:
        """From which clip each key belongs to.

        Args:
            clip: int [B, columns], 0 for keys that stay.
            sample, number: int64 [rows], each row's sample, and which of its clips.
            tokens, samples: how many keys each row has, and `sample`, on the host.
        """
        longest = max(tokens, default=0)
        mine = clip[sample] == number.unsqueeze(1)
        place = (mine.cumsum(1) - 1).where(mine, longest).clamp_max(longest)
        columns = torch.arange(clip.shape[1], device=clip.device).expand_as(place)
        places = columns.new_zeros(len(sample), longest + 1).scatter_(1, place, columns)[:, :longest]
        counts = mine.sum(1)
        start = places[:, 0] if longest else torch.zeros_like(sample)
        return cls(sample, start, counts, tuple(tokens), tuple(samples), places=places)

    @cached_property
    def _columns(self) -> tuple[Tensor, Tensor]:
        return self.places, torch.arange(self.longest, device=self.places.device) < self.counts.unsqueeze(1)


@dataclass
class CachedView(LayerView):
    """A layer's cached keys that may go, and the queries of the tokens since keys went last.

    Columns are those of all keys, past + T, where T counts these tokens. Hidden states are not known any more.

    Attributes:
        since: int64 [rows, N], how many tokens of its sample stand at or after each key.
        of: the view with one row a clip, if this one has a row a clip and head. Where heads hold different keys, that
            has a row a head, too.
    """

    since: Tensor = field(kw_only=True)
    of: LayerView | None = None

    @property
    def whole(self) -> LayerView:
        return self if self.of is None else self.of

    def by_row(self, scores: Tensor) -> Tensor:
        alone = self.of is None or len(scores) == len(self.tokens)
        return scores.mean(1) if alone else scores.flatten(0, 1)

    def key_columns(self) -> Tensor:
        return self._columns

    @property
    def keys(self) -> Tensor:
        return self.gather(self._attention()[1].transpose(1, 2))

    @property
    def queries(self) -> Tensor:
        self._gone("queries")

    @property
    def hidden(self) -> Tensor:
        self._gone("hidden states")

    def text_columns(self, asker: str) -> tuple[Tensor, Tensor]:
        self._gone("text")

    def received_attention(self, queries: float = 1.0, which: Which = "strided") -> Tensor:
        """As it is in `LayerView`, of the queries since keys went last."""
        query, key = self._attention()
        received = received_attention(query, key, self.scale, self.key_valid, share=queries, which=which)
        return self.of_audio(received[self.spans.sample])

    def cosine_to_next_key(self) -> Tensor:
        keys = self.keys.flatten(2).float()
        return torch.nn.functional.cosine_similarity(keys[:, 1:], keys[:, :-1], dim=-1)

    def tokens_from(self) -> Tensor:
        return self.since

    def _gone(self, what: str) -> NoReturn:
        raise StrategyError(
            f"a cache holds keys and values, but no {what}, so a scorer or merger that looks at these cannot be asked "
            "again while the answer grows (every)"
        )


def by_head_again(whole: CachedView, spans: AudioSpans, since: Tensor, before: dict[str, Tensor]) -> CachedView:
    """The same with a row a clip and head. Its `whole` is the one given, unless heads hold different keys.

    Args:
        spans: the keys of each clip and head, the heads of a clip side by side; samples are samples and heads.
        since, before: as in the view, for these rows.
    """
    key, query = whole.key, whole.query
    if key is None or query is None or whole.value is None:
        raise StrategyError("keys and values are evicted after a layer's attention, not before")
    batch, heads, total, _ = key.shape

    def of_samples(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else rows.repeat_interleave(heads, dim=0)

    rotation, valid = whole.rotation, whole.key_valid
    if rotation is not None:
        cos, sin = (part.expand(batch, -1, -1).repeat_interleave(heads, dim=0) for part in (rotation.cos, rotation.sin))
        rotation = replace(rotation, cos=cos, sin=sin, follows=rotation.follows.repeat_interleave(heads))
    ragged = valid is not None and valid.dim() == 3
    valid = None if valid is None else valid_by_head(valid, heads)
    head = torch.arange(heads, device=key.device)
    rows = replace(
        whole,
        spans=spans,
        query=query.unflatten(1, (heads, -1)).flatten(0, 1),
        key=key.reshape(batch * heads, 1, total, -1),
        value=whole.value.reshape(batch * heads, 1, total, -1),
        states=whole.states.new_empty(batch * heads, *whole.states.shape[1:]),
        key_valid=valid,
        token_valid=of_samples(whole.token_valid),
        clip_keys=(whole.clip_keys.unsqueeze(1) + head).flatten(),
        remove=None if whole.remove is None else whole.remove.repeat_interleave(heads),
        removals=None if whole.removals is None else tuple(n for n in whole.removals for _ in range(heads)),
        rotation=rotation,
        since=since,
        before=before,
    )
    return replace(rows, heads=heads, of=rows if ragged else whole)
