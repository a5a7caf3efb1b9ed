"""What happened in the last prompt, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastadasp.display import html_table

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LayerTrace:
    """Token counts of one layer in the last prompt; ``_per_sample`` fields hold one entry a sample, without padding.

    Attributes:
        layer: 0-based.
        audio_tokens_per_sample: audio tokens that leave the layer.
        tokens_in_per_sample: all tokens that enter its attention.
        tokens_out_per_sample: all tokens that its MLP sees and that leave it.
        kv_length_per_sample: keys in its cache after the prompt (earlier turns included); the mean over the heads where
            these keep different numbers.
        kv_columns_per_sample: keys of the longest head, which all heads take the memory of.
    """

    layer: int
    audio_tokens_per_sample: tuple[int, ...]
    tokens_in_per_sample: tuple[int, ...]
    tokens_out_per_sample: tuple[int, ...]
    kv_length_per_sample: tuple[int, ...]
    kv_columns_per_sample: tuple[int, ...]

    @property
    def audio_tokens(self) -> int:
        """Audio tokens that leave the layer, of the sample that has most."""
        return max(self.audio_tokens_per_sample)

    @property
    def kv_length(self) -> int:
        """Keys in the layer's cache after the prompt, of the sample that has most."""
        return max(self.kv_length_per_sample)

    @property
    def kv_columns(self) -> int:
        """Columns of the layer's cache after the prompt."""
        return max(self.kv_columns_per_sample)


@dataclass
class Trace:
    """Describes the last prompt that passed through the decoder (empty before the first).

    Where several threads call the model, that is the last prompt of any of them.

    Attributes:
        keep_assignment: whether `assignments` are kept; set it before the model runs.
        assignments: by layer that removed tokens, int64 [batch, tokens]: where each token of the last prompt went, as
            its column (a merged token: its cluster's) in the sequence that leaves the layer; -1 for a token that was
            dropped. Empty if no token was removed, or if it was not asked for. Keys evicted from a cache do not show.
        held: where the cache evicts again while the answer grows, keys of each sample in each layer's cache after the
            last token, as in `LayerTrace.kv_length_per_sample`; else empty.
        removals: by layer, how many tokens it takes from each clip of the prompt that is on its way; of layers that
            have acted what they took, of others what they are to take.
    """

    layers: list[LayerTrace] = field(default_factory=list)
    keep_assignment: bool = False
    assignments: dict[int, Tensor] = field(default_factory=dict)
    held: list[tuple[int, ...]] = field(default_factory=list)
    removals: list[tuple[int, ...]] = field(default_factory=list, repr=False)

    @property
    def assignment(self) -> Tensor | None:
        """`assignments` of the last layer that removed tokens; None if there is none."""
        return next(reversed(self.assignments.values()), None)

    def summary(self) -> str:
        """What happened in the last prompt, a line for each layer that changed something.

        Example::

            with strategy.apply(model) as trace:
                model(**inputs)
            print(trace.summary())
        """
        if not self.layers:
            return "no prompt with audio has passed through the decoder yet"
        first = self.layers[0]
        out = [f"{max(first.tokens_in_per_sample)} tokens enter the decoder"]
        tokens, keys = max(first.tokens_in_per_sample), max(first.tokens_in_per_sample)
        for layer in self.layers:
            left = max(layer.tokens_out_per_sample)
            if left != tokens or layer.kv_length != keys:
                out.append(f"layer {layer.layer}: {layer.audio_tokens} audio tokens left, {layer.kv_length} keys")
            tokens, keys = left, layer.kv_length
        return "\n".join(out)

    def _repr_html_(self) -> str:
        """What a notebook shows: the counts of every layer."""
        head = ("layer", "tokens in", "tokens out", "audio tokens left", "keys")
        rows = [
            (one.layer, max(one.tokens_in_per_sample), max(one.tokens_out_per_sample), one.audio_tokens, one.kv_length)
            for one in self.layers
        ]
        caption = "the last prompt, by layer; of a batch, the sample with the most" if rows else self.summary()
        return html_table(caption, head if rows else (), rows)

    def publish(self, layers: list[LayerTrace], assignments: dict[int, Tensor]) -> None:
        """What happened in a prompt, once it has passed through the decoder."""
        self.layers[:] = layers
        self.held.clear()
        self.assignments.clear()
        self.assignments.update(assignments)


def follow(assignments: dict[int, Tensor], layer: int, target: Tensor, width: int) -> None:
    """Adds a reduction to `Trace.assignments`: `target` int64 [batch, tokens] holds each token's new column, `width` or
    more if it is gone."""
    old = next(reversed(assignments.values()), None)
    old = None if old is None else old.to(target.device)
    new = target if old is None else target.gather(1, old.clamp_min(0))
    gone = new >= width if old is None else (old < 0) | (new >= width)
    assignments[layer] = new.masked_fill(gone, -1)
