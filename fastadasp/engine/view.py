"""What a scorer or merger sees of a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastadasp.engine.adjacent import cosine_to_next_key
from fastadasp.engine.encoder import EncoderSeen
from fastadasp.engine.fingerprints import mix
from fastadasp.engine.received import Which, attention_of, received_attention
from fastadasp.engine.rotation import Rotation
from fastadasp.engine.spans import AudioSpans, send
from fastadasp.errors import StrategyError


@dataclass
class LayerView:
    """One acting layer's audio tokens, one row a clip; everything is computed when first asked for.

    Attributes:
        layer_index: 0-based.
        num_layers: decoder layers.
        tokens: audio tokens of each clip, host integers.
        seed: the strategy's.
        query, key: the layer's queries [B, heads, T, head_dim] and keys [B, key/value heads, past + T, head_dim], after
            rotary embedding; at site ``input`` those of the layer before, and None before the first layer.
        states: hidden states [B, T, D]: after the layer's attention, before its second norm; at site ``input`` what
            enters the layer.
        scale: what the model multiplies attention logits by.
        key_valid: bool [B, past + T], False for padding; None where no sample is padded.
        token_valid: bool [B, T], False for padding among the hidden states; None where no sample is padded.
        remove: int64 [clips], how many tokens each clip loses here; None where that is not known.
        removals: `remove` as host integers; None where that is not known.
        kept: scores of earlier layers with the layer each clip's are of, see `shared`.
        value: values [B, key/value heads, past + T, head_dim] of the same attention; None where there is none.
        rotation: how its queries were turned by their positions; None where that is not known.
        encoder: what the audio encoder's last layer attended to, see `of_encoder`; None where it is not known.
        received: what every key received from all queries, float32 [B, past + T], where it was taken along with the
            attention; None where it is still to be computed.
        before: scores that scorers left for later evictions of this layer, see `carry`.
        heads: rows a clip; above 1 only at site ``cache``, where each key/value head chooses for itself.

    Example::

        >>> class Loudness(fastadasp.Scorer):
        ...     name = "loudness"
        ...     gives = ("importance",)
        ...     def importance(self, layer):  # a LayerView
        ...         return layer.hidden.float().norm(dim=-1)
    """

    layer_index: int
    num_layers: int
    seed: int
    spans: AudioSpans
    query: Tensor | None
    key: Tensor | None
    states: Tensor
    scale: float
    key_valid: Tensor | None
    clip_keys: Tensor
    token_valid: Tensor | None = None
    remove: Tensor | None = None
    removals: tuple[int, ...] | None = None
    kept: dict[str, tuple[tuple[int | None, ...], Tensor]] = field(default_factory=dict, repr=False)
    value: Tensor | None = None
    rotation: Rotation | None = None
    encoder: EncoderSeen | None = None
    received: Tensor | None = None
    before: dict[str, Tensor] = field(default_factory=dict, repr=False)
    heads: int = 1
    carries: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _columns: Tensor = field(init=False, repr=False)
    _received: dict[tuple[float, Which], Tensor] = field(default_factory=dict, init=False, repr=False)
    valid: Tensor = field(init=False)
    """bool [clips, N]: True for a clip's tokens, False for padding after a shorter clip."""

    def __post_init__(self) -> None:
        self._columns, self.valid = self.spans.columns()

    @property
    def tokens(self) -> tuple[int, ...]:
        """Audio tokens of each clip, on the host."""
        return self.spans.tokens

    def most_kept(self) -> int:
        """The most tokens that any clip keeps here, on the host; all tokens if that is not known."""
        kept = self.tokens
        if self.removals is not None:
            kept = tuple(n - k for n, k in zip(kept, self.removals, strict=True))
        return max(kept, default=0)

    def gather(self, x: Tensor) -> Tensor:
        """Audio tokens out of a whole sequence: [B, T, ...] -> [clips, N, ...]."""
        return x[self.spans.sample.unsqueeze(1), self._columns]

    @property
    def whole(self) -> LayerView:
        """The view with one row a clip: this one, unless it shows each head by itself."""
        return self

    def by_row(self, scores: Tensor) -> Tensor:
        """Scores by clip and key/value head, [clips, heads, N], for the rows of this view: [rows, N].

        Where a row is a head, each gets its own; where it is a clip, the mean over its heads.
        """
        return scores.mean(1)

    @property
    def keys(self) -> Tensor:
        """The audio tokens' keys, [clips, N, key/value heads, head_dim]."""
        own = self._attention()[1][:, :, -self.states.shape[1] :]
        return self.gather(own.transpose(1, 2))

    @property
    def queries(self) -> Tensor:
        """The audio tokens' queries, [clips, N, heads, head_dim]."""
        return self.gather(self._attention()[0].transpose(1, 2))

    @property
    def hidden(self) -> Tensor:
        """The audio tokens' hidden states, [clips, N, D]."""
        return self.gather(self.states)

    def received_attention(self, queries: float = 1.0, which: Which = "strided") -> Tensor:
        """Attention each audio token receives, summed over heads and queries, text included: float32 [clips, N].

        Args:
            queries: the share of the queries that is asked, above 0 and at most 1; sums are scaled up to all.
            which: `strided` asks every n-th query, n = 1 / queries rounded, counted back from the last; `last` asks the
                last ones.
        """
        asked = (queries, which)
        if asked not in self._received:
            self._received[asked] = self._asked(queries, which)
        return self._received[asked]

    def _asked(self, queries: float, which: Which) -> Tensor:
        if self.received is not None and queries == 1:
            return self.of_audio(self.received[self.spans.sample])
        query, key = self._attention()
        return received_attention(query, key, self.scale, self.key_valid, spans=self.spans, share=queries, which=which)

    def cosine_to_next_key(self) -> Tensor:
        """Cosine of each audio token's key to the next one's, all heads concatenated: float32 [clips, N - 1]."""
        own = self._attention()[1][:, :, -self.states.shape[1] :]
        return cosine_to_next_key(own, self.spans)

    def shared(self, name: str, layers: int, make: Callable[[], Tensor]) -> Tensor:
        """Scores [clips, N] that serve `layers` layers, the one where they are made included.

        A clip's count begins at the first layer where it loses something, so that a batch gives it what it gets alone.
        After a reduction a cluster has its members' sum. At site ``cache`` nothing is carried on.

        Args:
            name: of the scores; those of one name are the same.
            layers: 1 or more.
            make: computes them for this layer, float32 [clips, N]; called where some clip needs them.
        """
        rows = len(self.valid)
        before, old = self.kept.get(name, ((None,) * rows, None))
        serves = [at is not None and self.layer_index - at < layers for at in before]
        acts = [True] * rows if self.removals is None else [k > 0 for k in self.removals]
        if old is not None and all(served or not acting for served, acting in zip(serves, acts, strict=True)):
            return old.to(self.valid.device)  # an earlier layer's may be another
        made = make()
        if old is not None and any(serves):
            made = old.to(made.device).where(send([serves], made.device)[0].bool().unsqueeze(1), made)
        now = zip(before, serves, acts, strict=True)
        self.kept[name] = (
            tuple(at if served else self.layer_index if acting else None for at, served, acting in now),
            made,
        )
        return made

    def carry(self, name: str, scores: Tensor) -> None:
        """Leaves scores [clips, N] with the keys, for when this layer's cache evicts again while the answer grows.

        They stay with the keys that are kept; keys that come later have 0. Without `every` nobody asks for them.
        """
        self.carries[name] = scores

    def carried(self, name: str) -> Tensor | None:
        """Scores [clips, N] that were left under this name the last time; None after the prompt."""
        return self.before.get(name)

    def _attention(self) -> tuple[Tensor, Tensor]:
        if self.query is None or self.key is None:
            raise StrategyError(
                'there are no queries and keys before the first layer; use site = "block", or a later start layer'
            )
        return self.query, self.key

    def last_query_attention(self) -> Tensor:
        """Attention of the last token of each clip's sample to the audio tokens, mean over heads: float32 [clips, N].

        Of one query row a sample, so time and memory grow with the prompt, not with its square.
        """
        query, key = self._attention()
        batch, heads, length, dim = query.shape
        groups, total = key.shape[1], key.shape[2]
        columns = torch.arange(total, device=key.device)
        last = (self.known_keys().any(1) * columns).amax(1)
        row = (last - (total - length)).view(-1, 1, 1, 1).expand(-1, heads, 1, dim)
        query = query.gather(2, row).reshape(batch, groups, heads // groups, dim)
        logits = torch.matmul(query * self.scale, key.transpose(-1, -2))
        hidden = (columns > last.unsqueeze(1)).unsqueeze(1) | ~self.known_keys()
        weights = logits.masked_fill(hidden.unsqueeze(2), float("-inf")).softmax(-1, dtype=torch.float32)
        return self.of_audio(weights.mean((1, 2))[self.spans.sample])

    def of_encoder(self, asker: str = "the strategy") -> EncoderSeen:
        """What the audio encoder's last layer attended to, by audio token: [clips, ..., N], as wide as `valid`.

        Raises:
            StrategyError: it is not known: the model was called with embeddings, or an earlier reduction has merged or
                dropped tokens.
        """
        if self.encoder is None:
            raise StrategyError(
                f"{asker} needs the audio encoder's attention, which is known before the first reduction alone, where "
                "the model encodes the recordings itself (with inputs_embeds: apply(model, encoder=...))"
            )
        width, seen = self.valid.shape[1], self.encoder
        if width > seen.keys.shape[1]:
            raise StrategyError(
                f"the audio encoder made {seen.keys.shape[1]} tokens of a clip, but the prompt has {width}"
            )
        return EncoderSeen(seen.received[..., :width], seen.own[..., :width], seen.keys[:, :width], seen.products)

    def text(self, asker: str = "the strategy") -> tuple[Tensor, Tensor]:
        """Hidden states of the text tokens (neither audio nor padding) in each clip's own sample.

        Args:
            asker: who needs text, for the error's message.

        Returns:
            States [clips, M, D], M being the most text tokens of any of these samples, in the order of the prompt; and
            bool [clips, M], False for padding after a shorter text.

        Raises:
            StrategyError: a clip's sample has no text. That is known on the host.
        """
        columns, real = self.text_columns(asker)
        return self.states[self.spans.sample.unsqueeze(1), columns], real

    def text_columns(self, asker: str) -> tuple[Tensor, Tensor]:
        """Where the text tokens of `text` stand among the hidden states: int64 and bool, both [clips, M]."""
        counts = self.spans.text
        if 0 in counts:
            sample = self.spans.samples[counts.index(0)]
            raise StrategyError(f"{asker} needs text, but sample {sample} has no text tokens beside its audio")
        batch, length = self.states.shape[:2]
        plain = torch.ones(batch, length + 1, dtype=torch.bool, device=self.states.device)
        plain[self.spans.sample.unsqueeze(1), self._columns.where(self.valid, length)] = False
        plain = plain[:, :length]
        if self.token_valid is not None:
            plain = plain & self.token_valid
        # a stable sort brings the columns of text to the front
        order = (~plain).to(torch.int8).argsort(dim=1, stable=True)[:, : max(counts, default=0)]
        columns = order[self.spans.sample]
        steps = torch.arange(columns.shape[1], device=columns.device)
        return columns, steps < plain.sum(1)[self.spans.sample, None]

    def text_attention(self, weight: Tensor | None = None, asker: str = "the strategy") -> Tensor:
        """Attention of the text tokens in each clip's sample to its audio tokens, by head: float32 [clips, heads, N].

        The mean over the text tokens, weighted if `weight` [clips, M] is given (entries for padding are not looked at).
        Text before the clip cannot see it and counts with 0. Streamed over blocks of text tokens.

        Raises:
            StrategyError: a clip's sample has no text (`text`), or there is no attention before the first layer.
        """
        columns, real = self.text_columns(asker)
        share = real.float() if weight is None else real * weight.float()
        return self.of_audio(self.attention_from(columns, share / share.sum(1, keepdim=True).clamp_min(1e-30)))

    def attention_from(self, columns: Tensor, share: Tensor) -> Tensor:
        """Attention of some queries in each clip's sample to every key: float32 [clips, heads, past + T].

        Args:
            columns: int64 [clips, M], where these queries stand among the T hidden states.
            share: float32 [clips, M], how much each counts: 0 for padding, 1 / M each for the mean.
        """
        query, key = self._attention()
        return attention_of(query, key, self.scale, self.key_valid, self.spans.sample, columns, share)

    def known_keys(self) -> Tensor:
        """Which keys are real and no padding: bool [B, 1, past + T]; [B, key/value heads, past + T] where an earlier
        eviction left the heads different numbers."""
        _, key = self._attention()
        if self.key_valid is None:
            return torch.ones(len(key), 1, key.shape[2], dtype=torch.bool, device=key.device)
        known = self.key_valid
        return known.unsqueeze(1) if known.dim() == 2 else known[:, :: known.shape[1] // key.shape[1]]

    def key_columns(self) -> Tensor:
        """Where the audio tokens' keys stand among all keys: int64 [clips, N]."""
        total = self.states.shape[1] if self.key is None else self.key.shape[2]
        return self._columns + (total - self.states.shape[1])

    def of_audio(self, rows: Tensor) -> Tensor:
        """What belongs to audio tokens of rows over all keys, [clips, ..., past + T] -> [clips, ..., N]."""
        places = self.key_columns()
        return rows.gather(-1, places.view(len(rows), *(1,) * (rows.dim() - 2), -1).expand(*rows.shape[:-1], -1))

    def tokens_from(self) -> Tensor:
        """How many tokens of its sample stand at or after each audio token, itself included: int64 [clips, N].

        These are the queries of this pass that can see its key.
        """
        length = self.states.shape[1]
        if self.token_valid is None:
            return length - self._columns
        before = self.token_valid.cumsum(1)
        return self.gather((before[:, -1:] - before + 1).unsqueeze(-1)).squeeze(-1)

    def last_tokens(self, count: int) -> tuple[Tensor, Tensor]:
        """Where the last `count` tokens of each clip's sample stand among the hidden states, padding left out.

        Returns:
            int64 [clips, M] in the order of the prompt, M = `count` or the length if that is less; and bool [clips, M],
            False at the beginning for a sample that has fewer.
        """
        length = self.states.shape[1]
        count = min(count, length)
        if self.token_valid is None:
            columns = torch.arange(length - count, length, device=self.clip_keys.device)
            return columns.expand(len(self.tokens), -1), self.valid.new_ones(len(self.tokens), count)
        real = self.token_valid.sum(1)
        end = (self.token_valid * torch.arange(1, length + 1, device=self.clip_keys.device)).amax(1)
        columns = end.unsqueeze(1) + torch.arange(-count, 0, device=self.clip_keys.device)
        shown = columns >= (end - real).unsqueeze(1)
        return columns.clamp_min(0)[self.spans.sample], shown[self.spans.sample]

    def noise(self, stream: int = 0) -> Tensor:
        """Uniform noise in [0, 1), float32 [clips, N].

        It depends on the strategy's seed, the layer, the clip (its content) and the token's place in the clip alone:
        not on the device, the batch or the padding. `stream` gives independent draws within a layer.
        """
        steps = torch.arange(self.spans.longest, device=self.clip_keys.device)
        bits = self.clip_keys
        for part in (self.seed, self.layer_index, stream):
            bits = mix(bits ^ (part % 0x7FFFFFFFFFFFFFFF))
        bits = mix(bits.unsqueeze(1) + steps)
        return ((bits >> 8) & 0xFFFFFF).to(torch.float32) / float(1 << 24)
