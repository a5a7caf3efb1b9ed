"""What tests of cache methods share."""

from __future__ import annotations

import pytest
import torch
from tiny import audio_model

import fastadasp
from fastadasp.engine import reducing

HEADS = 2


def seen(name, inputs, layer=1, model=None, **changed):
    """What a recipe's scorer gives at one layer, with the view by heads: (view, scores [clips x heads, N])."""
    found = []
    plan_of = reducing.plan_of

    def watched(strategy, view):
        found.append((view, strategy.select.importance(view)))
        return plan_of(strategy, view)

    model = model or audio_model("eager")
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(reducing, "plan_of", watched)
        with fastadasp.load_strategy(name, **{"layers.layer": layer}, **changed).apply(model):
            model(**inputs)
    return found[0]


def maps(inputs, layer=1):
    """Attention [B, heads, T, T] of the eager model."""
    with torch.no_grad():
        return audio_model("eager")(**inputs, output_attentions=True).attentions[layer]


def clips_of(view, inputs):
    """By clip: its number, sample, the real columns of that sample, and the clip's places among these."""
    whole = view.whole
    for row, (sample, start, n) in enumerate(
        zip(whole.spans.samples, whole.spans.start.tolist(), whole.spans.tokens, strict=True)
    ):
        columns = inputs["attention_mask"][sample].nonzero().flatten().tolist()
        yield row, sample, columns, [columns.index(start + i) for i in range(n)]


def shared(rows):
    """Means over the query heads of each key/value head: [heads, ...] -> [HEADS, ...]."""
    return rows.unflatten(0, (HEADS, -1)).mean(1)
