"""The sizes of a text decoder, and what its layers cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DecoderShape:
    """The sizes that decide the cost of one decoder layer.

    Attributes:
        layers: decoder layers.
        hidden: channels of the hidden states.
        heads, kv_heads: query heads, and key/value heads.
        head_dim: channels of one head.
        mlp: inner channels of the gated MLP; in a mixture of experts, of those that see a token.

    Example::

        >>> shape = fastadasp.DecoderShape(layers=32, hidden=4096, heads=32, kv_heads=32, head_dim=128, mlp=11008)
        >>> solution = fastadasp.load_strategy("weighted", flops=0.5).solve(shape, text=50, audio=[750])
        >>> round(solution.flops_removed, 2)
        0.5
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int

    @classmethod
    def of(cls, config: Any) -> DecoderShape:
        """From a text decoder's configuration; where its layers differ, as most of them are."""
        each = getattr(config, "per_layer_config", None)
        layers = [config if each is None else each[i] for i in range(config.num_hidden_layers)]
        (heads, kv_heads, head_dim), _ = Counter(map(_heads, layers)).most_common(1)[0]
        return cls(config.num_hidden_layers, config.hidden_size, heads, kv_heads, head_dim, _mlp(config))

    def layer_flops(self, tokens_in: int, tokens_out: int, keys: int | None = None) -> int:
        """FLOPs of one layer (a multiply-add is two).

        Projections act on `tokens_in`, attention on `tokens_in` x `keys` (the whole square, as torch's FlopCounterMode
        counts it; default `keys` = `tokens_in`), the gated MLP on `tokens_out`.
        """
        keys = tokens_in if keys is None else keys
        projections = 2 * tokens_in * self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        attention = 4 * tokens_in * keys * self.heads * self.head_dim
        return projections + attention + 2 * tokens_out * 3 * self.hidden * self.mlp

    def prefill_flops(self, layers: Sequence[tuple[int, int]]) -> int:
        """FLOPs of a prompt whose layers see (tokens in, tokens out); embeddings and output head apart."""
        return sum(self.layer_flops(entered, left) for entered, left in layers)

    def kv_bytes(self, keys: Sequence[int], bytes_per_value: int) -> int:
        """Bytes of the keys and values of one sample, given the keys in each layer."""
        return sum(keys) * 2 * self.kv_heads * self.head_dim * bytes_per_value


def _heads(config: Any) -> tuple[int, int, int]:
    """Query heads, key/value heads and channels of one head."""
    heads: int = config.num_attention_heads
    return (
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
    )


def _mlp(config: Any) -> int:
    """Inner channels of the MLPs that one token passes through in a layer."""
    experts, width = getattr(config, "num_experts_per_tok", None), getattr(config, "moe_intermediate_size", None)
    if not experts or not width:
        return int(config.intermediate_size)
    return int(experts * width + (getattr(config, "shared_expert_intermediate_size", None) or 0))
