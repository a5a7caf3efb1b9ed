"""Budgets over a run: the one threshold at which the clips together lose what was asked for.

Content then decides what each clip loses: silence and slow speech pay for fast speech. The threshold is found on the
clips of the run, by their scores alone: neither answers nor references are looked at. It is one number, which may be
given to the recipe for other clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from fastadasp.counts.budget import Budget, ratios_of
from fastadasp.counts.shape import DecoderShape
from fastadasp.counts.solve import MOST, prompt_flops
from fastadasp.engine.apply import apply_strategy
from fastadasp.errors import StrategyError
from fastadasp.inference.clips import Batch, ReadyClip, batches
from fastadasp.inference.load import LoadedModel
from fastadasp.models.lookup import adapter_for
from fastadasp.recipes.recipe import Recipe

CLOSE = 0.05
"""Tokens a clip that the search is content with."""
FAR = 1.0
"""Tokens a clip within which the budget is met; above it is refused."""
TRIALS = 30


@dataclass(frozen=True)
class Trial:
    """What all clips lose at a threshold, as the budget counts it."""

    threshold: float
    removed: float


class _Enough(Exception):
    """The last layer that removes anything has acted."""


@torch.inference_mode()
def settle(loaded: LoadedModel, strategy: Recipe, clips: Sequence[ReadyClip], batch_size: int) -> tuple[Recipe, float]:
    """The recipe with the threshold that meets its budget over these clips, and the threshold.

    The model runs over the clips about ten times, up to the last layer that removes anything.

    Args:
        strategy: with a budget over a run.
        clips: those of the run.

    Raises:
        StrategyError: no threshold meets the budget to one token a clip; says what can be reached.
    """
    search = _Search(loaded, strategy, list(batches(clips, batch_size, loaded.device)))
    goal, unit = search.goal, search.token * len(clips)
    low, high = (search.trial(bound) for bound in _bounds(strategy))
    best = min((low, high), key=lambda trial: abs(trial.removed - goal))
    for _ in range(TRIALS):
        if abs(best.removed - goal) <= CLOSE * unit or not high.removed < goal < low.removed:
            break
        trial = search.trial((low.threshold + high.threshold) / 2)
        low, high = (trial, high) if trial.removed >= goal else (low, trial)
        best = min((best, trial), key=lambda one: abs(one.removed - goal))
    if abs(best.removed - goal) > FAR * unit:
        ends = [trial.removed / search.whole for trial in (high, low)]
        raise StrategyError(
            f"budget {strategy.budget} cannot be met: the thresholds of merger {strategy.merger.name!r} next to it "
            f"remove {ends[0]:.4f} and {ends[1]:.4f} of what the {len(clips)} clips have together"
        )
    return search.recipe(best.threshold), best.threshold


def _bounds(strategy: Recipe) -> tuple[float, float]:
    """The least and the largest threshold. Raises StrategyError for a merger that does not say."""
    name = strategy.merger.threshold_field
    told = type(strategy.merger).model_fields[name].metadata
    low, high = (next((getattr(m, end) for m in told if hasattr(m, end)), None) for end in ("ge", "le"))
    if low is None or high is None:
        raise StrategyError(f"merger {strategy.merger.name!r} is faulty: its {name!r} has no bounds (ge and le)")
    return float(low), float(high)


class _Search:
    """Trials of one strategy on the batches of a run."""

    def __init__(self, loaded: LoadedModel, strategy: Recipe, runs: list[Batch]) -> None:
        self._loaded, self._strategy, self._runs = loaded, strategy, runs
        self._decoder = adapter_for(loaded.model).decoder(loaded.model)
        self._layers: Any = getattr(self._decoder, adapter_for(loaded.model).layers)
        self._shape = DecoderShape.of(self._decoder.config)
        start = strategy.layers.start_layer(len(self._layers))
        ratios = ratios_of(strategy.schedule, MOST, start, len(self._layers))
        self._last = max((i for i, ratio in enumerate(ratios) if ratio > 0), default=0)
        audio = sum(clip.audio_tokens for run in runs for clip in run.clips)
        self.whole = float(audio)
        if strategy.budget.kind == "mean-flops":
            full = [self._flops(clip.tokens, [clip.tokens] * len(self._layers)) for run in runs for clip in run.clips]
            self.whole = float(sum(full))
        self.goal = strategy.budget.fraction * self.whole
        self.token = self.whole / audio

    def recipe(self, threshold: float) -> Recipe:
        """The strategy at a threshold, which alone decides how much goes."""
        field = f"merger.{self._strategy.merger.threshold_field}"
        return self._strategy.replace(**{"budget": Budget(ratio=MOST), field: threshold})

    def trial(self, threshold: float) -> Trial:
        """What all clips lose at a threshold."""
        recipe, gone = self.recipe(threshold), 0.0
        for run in self._runs:
            for clip, taken in zip(run.clips, self._taken(recipe, run), strict=True):
                left = [clip.tokens - n for n in accumulate(taken)]
                if self._strategy.budget.kind == "mean-flops":
                    full = [clip.tokens] * len(left)
                    gone += self._flops(clip.tokens, full) - self._flops(clip.tokens, left)
                else:
                    gone += clip.tokens - left[-1]
        return Trial(threshold, gone)

    def _flops(self, total: int, left: Sequence[int]) -> int:
        return prompt_flops(self._strategy, self._shape, total, left)

    def _taken(self, recipe: Recipe, run: Batch) -> list[tuple[int, ...]]:
        """By clip, what each layer takes from it."""

        def enough(*_: Any) -> None:
            raise _Enough

        layers = len(self._layers)
        with apply_strategy(recipe, self._loaded.model, spans=run.span_ids, encoder=run.encoder) as trace:
            handle = self._layers[self._last].register_forward_hook(enough)
            try:
                self._loaded.model.generate(
                    inputs_embeds=run.embeds, attention_mask=run.mask, max_new_tokens=1, do_sample=False, **run.side
                )
            except _Enough:
                pass
            finally:
                handle.remove()
        by_layer = trace.removals or [(0,) * len(run.clips)] * layers
        return list(zip(*by_layer, strict=True))
