"""What the caches of a prompt lose (site ``cache``): which keys may go, and how many of each clip or prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import add

import torch

from fastadasp.counts.schedule import evictions
from fastadasp.engine.spans import AudioSpans, send
from fastadasp.engine.stream import Stream
from fastadasp.errors import ModelError
from fastadasp.recipes.recipe import Recipe


def evictable(strategy: Recipe, stream: Stream) -> AudioSpans:
    """The tokens whose keys may go: those of each clip or, where any may go, of each prompt that has audio.

    Args:
        strategy: the recipe, or second stage, that evicts.
        stream: the tokens of the prompts that are left.
    """
    if strategy.evicts == "audio":
        return stream.spans
    rows = tuple(dict.fromkeys(stream.spans.samples))
    tokens = tuple(stream.lengths[row] for row in rows)
    sample, counts = send([rows, tokens], stream.spans.start.device)
    start = torch.zeros_like(sample)
    if stream.valid is not None:
        start = stream.valid[sample].to(torch.int8).argmax(1)
    return AudioSpans(sample, start, counts, tokens, rows, (0,) * len(rows))


def check_whole(prompts: AudioSpans, stream: Stream) -> None:
    """Refuses prompts with masked tokens between others, of which any key may go. This waits for the device."""
    if stream.valid is None:
        return
    columns, real = prompts.columns()
    shown = stream.valid[prompts.sample.unsqueeze(1), columns]
    if not bool((shown | ~real).all()):
        raise ModelError(
            'the attention mask hides tokens inside a prompt, and evicts = "any" needs prompts whose tokens lie '
            "side by side; mask padding only"
        )


def planned(
    strategy: Recipe, may_go: AudioSpans, clips: AudioSpans, plans: Sequence[tuple[int, ...]], *, site: str, batch: int
) -> list[tuple[int, ...]]:
    """By layer, how many keys of each clip (or prompt) its cache is to lose.

    Args:
        strategy: the recipe, or second stage, that evicts.
        may_go: the tokens whose keys may go, before layer 0.
        clips: the clips before layer 0.
        plans: what the strategy itself takes at each layer: from each row of `may_go` at site ``cache``, else from
            each clip.
        site: of the strategy itself, or of the first stage.
        batch: samples.
    """
    if site == "cache":
        return list(accumulate(plans, lambda gone, more: tuple(map(add, gone, more))))
    if strategy.evicts == "any":
        sums = (clips.per_sample(batch, counts) for counts in plans)
        plans = [tuple(total[row] for row in may_go.samples) for total in sums]
    return evictions(strategy, may_go.tokens, plans, site=site)
