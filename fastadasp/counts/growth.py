"""Counts while an answer grows: how many keys each layer may hold, when a cache evicts again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastadasp.counts.schedule import clip_survivors, known_ratio
from fastadasp.counts.shape import DecoderShape
from fastadasp.counts.solve import BatchLengths, closest, solve
from fastadasp.errors import StrategyError

if TYPE_CHECKING:
    from fastadasp.recipes.recipe import Recipe

Held = list[tuple[int, ...]]
"""By layer, the keys of each row: of a clip's audio or, where any may go, of a prompt and its answer."""


def held_after(
    strategy: Recipe,
    shape: Callable[[], DecoderShape],
    seen: Held,
    samples: Sequence[int],
    totals: Sequence[int],
    grown: Sequence[int],
) -> tuple[Held, bool]:
    """How many keys each layer may hold once `grown` tokens followed the prompt: its budget, solved anew.

    The answer's tokens count as text of the prompt, so the fraction that is gone stays what the budget says.

    Args:
        strategy: the recipe, or second stage, that evicts.
        shape: gives the model's sizes; asked only if the budget depends on them.
        seen: by layer, tokens of each row that its attention saw of the prompt.
        samples: the sample of each row.
        totals: tokens of each sample's prompt.
        grown: tokens of each sample since.

    Returns:
        The counts, and whether the budget can be met: the answer may have grown so long that nothing is left to go.
    """
    more = [grown[sample] if strategy.evicts == "any" else 0 for sample in samples]
    layers, met = len(seen), True
    if not strategy.budget.per_prompt:
        ratio = known_ratio(strategy, layers)
        return [
            tuple(clip_survivors(strategy, ratio, layers, n + new)[i] for n, new in zip(counts, more, strict=True))
            for i, counts in enumerate(seen)
        ], True
    held: dict[int, tuple[int, ...]] = {}
    batch = BatchLengths(tuple(n + new for n, new in zip(seen[0], more, strict=True)), tuple(samples), tuple(totals))
    for places, text in batch.prompts():
        clips = [batch.clips[i] for i in places]
        text = text + grown[samples[places[0]]] if strategy.evicts == "audio" else 0
        try:
            survivors = solve(strategy, shape(), text, clips, nearest=True).survivors
        except StrategyError:
            survivors, met = closest(strategy, shape(), text, clips), False
        held.update(zip(places, survivors, strict=True))
    return [tuple(held[row][i] for row in range(len(samples))) for i in range(layers)], met
