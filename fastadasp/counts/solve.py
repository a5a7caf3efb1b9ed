"""From a strategy's budget to whole token counts, for one prompt of known length or for the samples of a batch.

A ``tokens`` or ``ratio`` budget has one r for every prompt. For ``flops`` and ``kv`` r depends on the prompt: text
tokens cost too, attention grows with the square of the length, and layers before the start layer see everything. It is
found by bisection over r, each trial counted in whole tokens as the engine removes them and as `DecoderShape` prices
them. A prompt is taken by itself: what earlier turns left in a cache does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

from fastadasp.counts.budget import cut, ratios_of
from fastadasp.counts.schedule import clip_survivors, evictions, removals, removals_after
from fastadasp.counts.shape import DecoderShape
from fastadasp.errors import StrategyError

if TYPE_CHECKING:
    from fastadasp.recipes.recipe import Recipe

EXACT = 0.002
"""A budget is met if the fraction removed is this close to it."""

MOST = 1.0 - 2.0**-40
"""The largest r that is tried."""

Counts = tuple[tuple[int, ...], ...]
"""For each clip, the audio tokens that leave each layer."""

_NAMES = {"flops": "prefill FLOPs", "kv": "KV bytes", "tokens": "audio tokens"}


@dataclass(frozen=True)
class Solution:
    """What a budget means for one prompt.

    Attributes:
        ratio: the schedule's r.
        survivors: for each clip, the audio tokens that leave each layer. Where any key of a cache may go, the prompt
            stands as one clip: the keys that each layer keeps.
        tokens_removed: fraction of the audio tokens, or of these keys, gone by the last layer.
        flops_removed: fraction of the decoder's prefill FLOPs removed (encoder, embeddings and output head apart).
        kv_removed: fraction of the bytes of keys and values removed.
    """

    ratio: float
    survivors: Counts
    tokens_removed: float
    flops_removed: float
    kv_removed: float


@dataclass(frozen=True)
class _Trial:
    """What comes of one r: the fraction removed, as the budget counts it, and the counts."""

    ratio: float
    share: float
    survivors: Counts


@dataclass(frozen=True)
class _Problem:
    """A strategy and a prompt; hashable if the strategy's components are. `done`: layers that are behind us.

    Where any key of a cache may go, the whole prompt stands as its one clip.
    """

    strategy: Recipe
    shape: DecoderShape
    text: int
    clips: tuple[int, ...]
    done: Counts = ()

    @classmethod
    def of(cls, strategy: Recipe, shape: DecoderShape, text: int, audio: Sequence[int]) -> _Problem:
        """From a prompt's text and audio tokens."""
        if strategy.evicts == "any":
            return cls(strategy, shape, 0, (text + sum(audio),))
        return cls(strategy, shape, text, tuple(audio))

    @property
    def start(self) -> int:
        return self.strategy.layers.start_layer(self.shape.layers)

    def survivors(self, ratio: float) -> Counts:
        """Audio tokens of each clip that leave each layer at this r."""
        out = []
        for i, tokens in enumerate(self.clips):
            past = self.done[i] if self.done else ()
            now = past[-1] if past else tokens
            out.append((*past, *clip_survivors(self.strategy, ratio, self.shape.layers, tokens, now, len(past))))
        return tuple(out)

    def removed(self, kind: str, survivors: Counts) -> float:
        """The fraction removed, as budgets of this kind count it."""
        shape, full = self.shape, self.text + sum(self.clips)
        left: list[int] = [self.text + sum(counts) for counts in zip(*survivors, strict=True)]
        if kind == "tokens":
            return float(full - left[-1]) / max(sum(self.clips), 1)
        if self.strategy.site == "cache":  # the layer itself keeps every token, its cache does not
            path, keys = [(full, full)] * shape.layers, left
        else:
            keys = left if self.strategy.site == "input" else [full, *left[:-1]]
            path = list(zip(keys, left, strict=True))
        if kind == "kv" and self.strategy.then is not None:
            paths = [(tokens, *counts) for tokens, counts in zip(self.clips, survivors, strict=True)]
            taken = [tuple(path[i] - path[i + 1] for path in paths) for i in range(shape.layers)]
            clips = self.clips
            if self.strategy.then.evicts == "any":
                clips, taken = (full,), [(sum(gone),) for gone in taken]
            evicted = evictions(self.strategy.then, clips, taken, site=self.strategy.site)
            keys = [n - sum(gone) for n, gone in zip(keys, evicted, strict=True)]
        if kind == "kv":
            return 1 - shape.kv_bytes(keys, 1) / shape.kv_bytes([full] * shape.layers, 1)
        return 1 - shape.prefill_flops(path) / shape.prefill_flops([(full, full)] * shape.layers)

    def trial(self, ratio: float) -> _Trial:
        """What comes of this r."""
        survivors = self.survivors(ratio)
        return _Trial(ratio, self.removed(self.strategy.budget.kind, survivors), survivors)

    def describe(self) -> str:
        """Who removes from what, for messages."""
        s = self.strategy
        what = f"schedule {s.schedule.name!r} with merger {s.merger.name!r} from layer {self.start}"
        sound = " + ".join(map(str, self.clips))
        prompt = f"{self.text} text and {sound} audio tokens" if s.evicts == "audio" else f"{sound} tokens"
        return f"{what} of {self.shape.layers}, on a prompt of {prompt},"


def solve(strategy: Recipe, shape: DecoderShape, text: int, audio: Sequence[int], *, nearest: bool = False) -> Solution:
    """The r and the token counts that meet `strategy.budget` in one prompt.

    Args:
        shape: the model's sizes.
        text: text tokens of the prompt.
        audio: audio tokens of each of its clips.
        nearest: where one token more or less changes the fraction by more than `EXACT` (short prompts), take the count
            that comes closest instead of refusing.

    Raises:
        StrategyError: the budget cannot be met to `EXACT`; says what can be reached.
    """
    problem = _Problem.of(strategy, shape, text, audio)
    try:
        return _solve(problem, nearest)
    except TypeError:  # a component with a list among its parameters has no hash
        return _solve.__wrapped__(problem, nearest)


def reach(strategy: Recipe, shape: DecoderShape, text: int, audio: Sequence[int]) -> tuple[float, float]:
    """The least and the largest fraction that a budget of this strategy's kind may ask for in one prompt."""
    problem = _Problem.of(strategy, shape, text, audio)
    return problem.trial(0.0).share, problem.trial(MOST).share


def prompt_flops(strategy: Recipe, shape: DecoderShape, total: int, left: Sequence[int]) -> int:
    """FLOPs of the decoder's prefill for one prompt.

    Args:
        total: tokens of the prompt before any reduction.
        left: its tokens that leave each layer.
    """
    entered = list(left) if strategy.site == "input" else [total, *left[:-1]]
    return shape.prefill_flops(list(zip(entered, left, strict=True)))


@lru_cache(maxsize=4096)
def _solve(problem: _Problem, nearest: bool) -> Solution:
    strategy = problem.strategy
    if strategy.budget.per_prompt:
        ratio, survivors = _meet(problem, nearest)
    else:
        ratio = strategy.budget.ratio_for(strategy.schedule, problem.start, problem.shape.layers)
        survivors = problem.survivors(ratio)
    tokens, flops, kv = (problem.removed(kind, survivors) for kind in ("tokens", "flops", "kv"))
    return Solution(ratio, survivors, tokens, flops, kv)


def _meet(problem: _Problem, nearest: bool) -> tuple[float, Counts]:
    """r and counts of a budget that depends on the prompt."""
    budget = problem.strategy.budget
    goal, name = budget.fraction, _NAMES[budget.kind]
    low, high = _bracket(problem)
    if not low.share - EXACT <= goal <= high.share + EXACT:
        raise StrategyError(
            f"budget {budget} cannot be met: {problem.describe()} removes {cut(low.share)} to {cut(high.share)} of the "
            f"{name}"
        )
    small = _one_token_apart(low.survivors, high.survivors)
    tried = [low, high, *(_between(problem, low, high) if small else ())]
    best = min(tried, key=lambda trial: abs(trial.share - goal))
    if abs(best.share - goal) <= EXACT or (nearest and small):
        return best.ratio, best.survivors
    below, above = (f(t.share for t in tried if (t.share < goal) is side) for f, side in ((max, True), (min, False)))
    raise StrategyError(
        f"budget {budget} cannot be met to {EXACT:g}: {problem.describe()} goes from {below:.4f} to {above:.4f} of the "
        f"{name} with {'the next token' if small else 'the next ratio'}"
    )


def _bracket(problem: _Problem) -> tuple[_Trial, _Trial]:
    """Two neighbouring outcomes with the goal between them; the ends of the range if it lies outside."""
    goal = problem.strategy.budget.fraction
    low, high = problem.trial(0.0), problem.trial(MOST)
    for _ in range(60):
        middle = (low.ratio + high.ratio) / 2
        if not low.share < goal <= high.share or middle in (low.ratio, high.ratio):
            break
        trial = problem.trial(middle)
        low, high = (trial, high) if trial.share < goal else (low, trial)
    return low, high


def _between(problem: _Problem, low: _Trial, high: _Trial) -> Iterator[_Trial]:
    """Outcomes between two that differ by single tokens: the token goes from fewer clips, or from a later layer on.

    Layers that the schedule leaves alone at this r stay alone.
    """
    acts = ratios_of(problem.strategy.schedule, high.ratio, problem.start, problem.shape.layers)
    for i, (few, many) in enumerate(zip(low.survivors, high.survivors, strict=True)):
        for layer, fraction in enumerate(acts):
            before = few[layer - 1] if layer else problem.clips[i]
            possible = before - many[layer] <= problem.strategy.merger.capacity(before)
            if fraction > 0 and few[layer] != many[layer] and possible:
                mixed = (*high.survivors[:i], (*few[:layer], *many[layer:]), *low.survivors[i + 1 :])
                yield _Trial(high.ratio, problem.removed(problem.strategy.budget.kind, mixed), mixed)


def _one_token_apart(few: Counts, many: Counts) -> bool:
    """Whether no clip loses more than one token more at any layer."""
    return all(a - b <= 1 for x, y in zip(few, many, strict=True) for a, b in zip(x, y, strict=True))


@dataclass(frozen=True)
class BatchLengths:
    """The lengths of a batch's prompts.

    Attributes:
        clips: audio tokens of each clip.
        samples: the sample (batch row) of each clip.
        totals: all tokens of each sample's prompt.
    """

    clips: tuple[int, ...]
    samples: tuple[int, ...]
    totals: tuple[int, ...]

    def prompts(self) -> Iterator[tuple[list[int], int]]:
        """(places of its clips, text tokens) of each sample that has audio."""
        for sample in dict.fromkeys(self.samples):
            places = [i for i, row in enumerate(self.samples) if row == sample]
            yield places, self.totals[sample] - sum(self.clips[i] for i in places)


def batch_removals(
    strategy: Recipe, num_layers: int, shape: Callable[[], DecoderShape], batch: BatchLengths
) -> list[tuple[int, ...]]:
    """What each layer takes from each clip of a batch: `num_layers` tuples of one count a clip.

    Args:
        shape: gives the model's sizes; asked only if the budget depends on them.

    Raises:
        StrategyError: a sample cannot meet the budget; says what it can.
    """
    if not strategy.budget.per_prompt:
        return removals(strategy, num_layers, batch.clips)
    survivors: dict[int, tuple[int, ...]] = {}
    for places, text in batch.prompts():
        solution = solve(strategy, shape(), text, [batch.clips[i] for i in places], nearest=True)
        survivors.update(zip(places, solution.survivors, strict=True))
    return _differences(batch.clips, survivors, num_layers)


def batch_removals_after(
    strategy: Recipe,
    num_layers: int,
    shape: Callable[[], DecoderShape],
    batch: BatchLengths,
    taken: Sequence[Sequence[int]],
) -> list[tuple[int, ...]]:
    """`batch_removals` of the later layers, when the first ones have `taken` (a tuple a layer) other counts than asked.

    For mergers that are not exact. The rest comes as close to the budget as it can; nothing is refused any more.
    """
    done = [_left(tokens, [counts[i] for counts in taken]) for i, tokens in enumerate(batch.clips)]
    if not strategy.budget.per_prompt:
        current = [path[-1] for path in done]
        return removals_after(strategy, num_layers, len(taken) - 1, batch.clips, current)
    survivors: dict[int, tuple[int, ...]] = {}
    for places, text in batch.prompts():
        clips, behind = tuple(batch.clips[i] for i in places), tuple(done[i] for i in places)
        survivors.update(zip(places, _rest(_Problem(strategy, shape(), text, clips, behind)), strict=True))
    return _differences(batch.clips, survivors, num_layers)[len(taken) :]


def closest(strategy: Recipe, shape: DecoderShape, text: int, audio: Sequence[int]) -> Counts:
    """The counts that come closest to a budget in one prompt, where it cannot be met."""
    return _rest(_Problem.of(strategy, shape, text, audio))


def _rest(problem: _Problem) -> Counts:
    """The counts that come closest to a budget when some layers are `done`."""
    goal = problem.strategy.budget.fraction
    return min(_bracket(problem), key=lambda trial: abs(trial.share - goal)).survivors


def _left(tokens: int, taken: Sequence[int]) -> tuple[int, ...]:
    return tuple(tokens - gone for gone in accumulate(taken))


def _differences(clips: Sequence[int], survivors: Mapping[int, Sequence[int]], layers: int) -> list[tuple[int, ...]]:
    paths = [(tokens, *survivors[i]) for i, tokens in enumerate(clips)]
    return [tuple(path[i] - path[i + 1] for path in paths) for i in range(layers)]
