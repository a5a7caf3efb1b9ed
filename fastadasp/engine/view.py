"""What a scorer or merger sees of a layer."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastadasp.engine.received import received_attention
from fastadasp.engine.spans import AudioSpans
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
    _columns: Tensor = field(init=False, repr=False)
    _received: Tensor | None = field(default=None, init=False, repr=False)
    valid: Tensor = field(init=False)
    """bool [clips, N]: True for a clip's tokens, False for padding after a shorter clip."""

    def __post_init__(self) -> None:
        self._columns, self.valid = self.spans.columns()

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.spans.tokens

    def gather(self, x: Tensor) -> Tensor:
        """Audio tokens out of a whole sequence: [B, T, ...] -> [clips, N, ...]."""
        return x[self.spans.sample.unsqueeze(1), self._columns]

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

    def received_attention(self) -> Tensor:
        """Attention each audio token receives, summed over heads and all queries, text included: float32 [clips, N]."""
        if self._received is None:
            whole = received_attention(*self._attention(), self.scale, self.key_valid)
            self._received = self.gather(whole[:, -self.states.shape[1] :])
        return self._received

    def _attention(self) -> tuple[Tensor, Tensor]:
        if self.query is None or self.key is None:
            raise StrategyError(
                'there are no queries and keys before the first layer; use site = "block", or a later start layer'
            )
        return self.query, self.key

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


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 (wrapping multiplication; shifts made logical by masks)."""
    x = x + -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def fingerprint_clips(embeds: Tensor, spans: AudioSpans) -> Tensor:
    """A number for each clip that follows its content: embeddings [B, T, D] -> int64 [clips].

    Made of eight coarsely rounded sums, so that rounding differences between a padded batch and a sample alone do not
    change it: a few channels, centred and scaled, under two fixed patterns of signs.
    """
    columns, valid = spans.columns()
    real, count = valid.unsqueeze(-1), valid.sum(1).view(-1, 1, 1)
    few = embeds[..., :4][spans.sample.unsqueeze(1), columns].float() * real
    size = (few.square().sum((1, 2), keepdim=True) / (4 * count)).sqrt()
    centred = (few - few.sum(1, keepdim=True) / count) * real
    spread = (centred.square().sum(1, keepdim=True) / count).sqrt()
    hashed = mix(torch.arange(spans.longest, device=valid.device))
    signs = [1.0 - 2.0 * ((hashed >> bit) & 1) for bit in (11, 37)]
    unit = centred / spread.maximum(1e-3 * size).clamp_min(1e-12)
    sums = torch.stack([(unit * sign.unsqueeze(1)).sum(1) for sign in signs], 1) / count.sqrt()
    key = mix(count.flatten())
    for part in (4 * sums).round().to(torch.int64).flatten(1).unbind(1):
        key = mix(key ^ part)
    return key
