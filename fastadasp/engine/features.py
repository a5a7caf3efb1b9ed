"""A strategy on features alone: for engines that have the encoder's output at hand, but no hooks in a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastadasp.counts.schedule import check_fit, clip_survivors, known_ratio, layer_ratios
from fastadasp.engine.fingerprints import fingerprint_clips
from fastadasp.engine.planning import plan_of
from fastadasp.engine.spans import AudioSpans, send
from fastadasp.engine.stream import Stream, apply_plan
from fastadasp.engine.view import LayerView
from fastadasp.errors import StrategyError

if TYPE_CHECKING:
    from fastadasp.recipes.recipe import Recipe


_ABSENT = {
    "attention": "queries and keys of a layer",
    "text": "the text of the prompt",
    "encoder": "the attention of the audio encoder",
}
"""What features alone have not, by `Need`."""


@dataclass(frozen=True)
class Reduced:
    """One shortened clip.

    Attributes:
        features: [M, D], what is left, in the order of time.
        places: int64 [M], where each survivor stood in the clip, counted from 0 (a cluster: its first token).
    """

    features: Tensor
    places: Tensor


def why_not(strategy: Recipe, layers: int) -> str | None:
    """Why a strategy cannot act on features alone, in one sentence; None if it can.

    Args:
        strategy: the recipe.
        layers: layers of the decoder that the features are meant for.
    """
    name = f"recipe {strategy.name!r}"
    if strategy.site != "input":
        return (
            f'{name} acts at the site "{strategy.site}", inside the decoder; on features alone only the site "input" '
            "at layer 0 exists"
        )
    if strategy.then is not None:
        return f"{name} has a second stage in the key/value cache, which does not exist for features alone"
    for need, words in _ABSENT.items():
        if need in strategy.needs():
            return f"{name} needs {words}, and features alone have none"
    if not strategy.merger.is_exact():
        return (
            f"merger {strategy.merger.name!r} of {name} may remove other counts than asked for, but what is left of a "
            "clip must be known from its length alone"
        )
    if strategy.budget.over_run:
        return f"the budget {strategy.budget} of {name} depends on all clips of a run; give a fraction (0.5)"
    if strategy.budget.per_prompt:
        return (
            f"the budget {strategy.budget} of {name} depends on the whole prompt; give a fraction of the tokens "
            "(0.5) or a ratio (ratio=0.5)"
        )
    if strategy.needs_calibration:
        return f"{name} has still to choose its start layer; features alone need layers.layer = 0"
    try:
        check_fit(strategy, layers)
        acting = [i for i, ratio in enumerate(layer_ratios(strategy, layers)) if ratio > 0]
    except StrategyError as error:
        return str(error)
    last = strategy.schedule.exit_layer(strategy.layers.start_layer(layers), layers)
    if last is not None:
        return f"{name} lets all audio leave at layer {last}, inside the decoder"
    if acting != [0]:
        where = ", ".join(map(str, acting[:4])) + (", ..." if len(acting) > 4 else "")
        return f"{name} removes tokens at layer {where}; features alone are what enters layer 0"
    return None


def check(strategy: Recipe, layers: int) -> None:
    """Raises StrategyError, in one sentence, if the strategy cannot act on features alone (`why_not`)."""
    if fault := why_not(strategy, layers):
        raise StrategyError(fault)


def left(strategy: Recipe, tokens: int, layers: int) -> int:
    """How many of a clip's `tokens` are left; known before any feature exists.

    Args:
        strategy: a recipe that can act on features alone.
        tokens: audio tokens of the clip, at least 0.
        layers: layers of the decoder.

    Raises:
        StrategyError: the recipe cannot act on features alone, or `tokens` is below 0.
    """
    check(strategy, layers)
    if tokens < 0:
        raise StrategyError(f"a clip has 0 or more audio tokens, not {tokens}")
    return clip_survivors(strategy, known_ratio(strategy, layers), layers, tokens)[0]


def reduce(strategy: Recipe, clips: Sequence[Tensor], layers: int) -> list[Reduced]:
    """Shortens clips, each as if it were alone: exactly what the engine does before layer 0.

    Args:
        strategy: a recipe that can act on features alone.
        clips: features [N, D] of each clip, as they would enter the decoder; all of one device, dtype and width.
        layers: layers of the decoder.

    Raises:
        StrategyError: the recipe cannot act on features alone, or the clips are not of this form.
    """
    check(strategy, layers)
    return reduce_to(strategy, clips, layers, [left(strategy, len(clip), layers) for clip in _checked(clips)])


def reduce_to(strategy: Recipe, clips: Sequence[Tensor], layers: int, kept: Sequence[int]) -> list[Reduced]:
    """As `reduce`, but to counts that the caller found with `left`, perhaps for another budget each."""
    whole = all(n == len(clip) for n, clip in zip(kept, clips, strict=True))
    if whole:
        return [Reduced(clip, torch.arange(len(clip), device=clip.device)) for clip in clips]
    device, tokens = clips[0].device, tuple(len(clip) for clip in clips)
    # One row, the clips side by side as in a prompt, so that there is no padding to think of.
    states = torch.cat(list(clips)).unsqueeze(0)
    total, starts = sum(tokens), [0, *accumulate(tokens)][:-1]
    gone = tuple(n - k for n, k in zip(tokens, kept, strict=True))
    with torch.no_grad():
        sample, start, counts, remove = send([[0] * len(tokens), starts, tokens, gone], device)
        spans = AudioSpans(sample, start, counts, tokens, (0,) * len(tokens), (0,) * len(tokens))
        view = LayerView(
            layer_index=0,
            num_layers=layers,
            seed=strategy.seed,
            spans=spans,
            query=None,
            key=None,
            states=states,
            scale=1.0,
            key_valid=None,
            clip_keys=fingerprint_clips(states, spans),
            remove=remove,
            removals=gone,
        )
        stream = Stream((total,), total, None, spans)
        reduction, _ = apply_plan(stream, plan_of(strategy, view), kept)
    out, source = reduction.reduce(states)[0].split(kept), reduction.source[0].split(kept)
    return [Reduced(x, at - first) for x, at, first in zip(out, source, starts, strict=True)]


def _checked(clips: Sequence[Tensor]) -> Sequence[Tensor]:
    """Raises StrategyError for what no list of features is."""
    for i, clip in enumerate(clips):
        if not isinstance(clip, Tensor) or clip.dim() != 2 or not clip.dtype.is_floating_point:
            shape = f"{clip.dtype} {tuple(clip.shape)}" if isinstance(clip, Tensor) else type(clip).__name__
            raise StrategyError(f"clip {i} must be features [tokens, width] of floating point, not {shape}")
        first = clips[0]
        if (clip.shape[1], clip.dtype, clip.device) != (first.shape[1], first.dtype, first.device):
            raise StrategyError(f"clip {i} differs from clip 0 in width, dtype or device")
    return clips
