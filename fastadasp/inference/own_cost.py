"""What a strategy computes itself beside the model, as its components count it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fastadasp.contracts.components import TokenComponent
from fastadasp.contracts.workload import Workload
from fastadasp.counts.shape import DecoderShape

if TYPE_CHECKING:
    from fastadasp.engine.encoder import EncoderSeen
    from fastadasp.engine.trace import LayerTrace
    from fastadasp.recipes.recipe import Recipe


def own_flops(
    strategy: Recipe,
    shape: DecoderShape,
    layers: Sequence[LayerTrace],
    sample: int,
    audio: int,
    prompt: int,
    encoder: EncoderSeen | None = None,
) -> int | None:
    """FLOPs of a strategy's scores, choices and means in one traced prompt; a multiply-add is two.

    A component that is both `select` and `weight` counts once, and so does what is read of the audio encoder. Several
    clips of a prompt are taken as one.

    Args:
        sample: the prompt's place in the traced batch.
        audio, prompt: its audio tokens and all its tokens, before any reduction.
        encoder: what the audio encoder attended to, one row a prompt; None where that is not known.

    Returns:
        None if a component that has worked does not say what it costs (`TokenComponent.multiply_adds`), or reads of the
        encoder and that is not known.
    """
    total, reads = 0, False
    for recipe, work in _workloads(strategy, shape, layers, sample, audio, prompt):
        if work.removed == work.tokens:  # all go, and nobody has to choose
            continue
        if encoder is not None:
            work = replace(work, encoder_width=encoder.keys.shape[-1])
        for part in _parts(recipe):
            reads = reads or "encoder" in part.needed()
            counted = part.multiply_adds(work)
            if counted is None:
                return None
            total += 2 * counted
    if reads and encoder is None:
        return None
    return total + (2 * int(encoder.products[sample]) if reads and encoder is not None else 0)


def _parts(recipe: Recipe) -> list[TokenComponent]:
    parts: list[TokenComponent] = [recipe.select, recipe.merger]
    if recipe.weight is not None and recipe.weight != recipe.select:
        parts.append(recipe.weight)
    return parts


def _workloads(
    strategy: Recipe, shape: DecoderShape, layers: Sequence[LayerTrace], sample: int, audio: int, prompt: int
) -> Iterator[tuple[Recipe, Workload]]:
    """The recipe or its second stage, and the work of each layer in which it acted."""
    evicting = strategy if strategy.site == "cache" else strategy.then
    earlier: dict[str, tuple[int, ...]] = {}

    def work(site: str, index: int, tokens: int, removed: int, length: int) -> Workload:
        before = earlier.get(site, ())
        earlier[site] = (*before, index)
        sizes = (shape.hidden, shape.heads, shape.kv_heads, shape.head_dim)
        return Workload(tokens, removed, length, *sizes, layer=index, earlier=before, site=site)

    now, length = audio, prompt
    for index, layer in enumerate(layers):
        entered, left = layer.tokens_in_per_sample[sample], layer.audio_tokens_per_sample[sample]
        inside = now if strategy.site != "input" else left
        if now > left:
            yield strategy, work(strategy.site, index, now, now - left, length)
        evicted = entered - layer.kv_length_per_sample[sample]
        if evicting is not None and evicted > 0:
            yield evicting, work("cache", index, inside, evicted, entered)
        now, length = left, layer.tokens_out_per_sample[sample]
