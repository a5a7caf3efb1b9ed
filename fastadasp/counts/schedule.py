"""From a schedule's ratios to token counts: how many audio tokens each clip keeps at each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastadasp.counts.budget import ratios_of
from fastadasp.errors import StrategyError

if TYPE_CHECKING:
    from fastadasp.recipes.recipe import Recipe


def layer_ratios(strategy: Recipe, num_layers: int) -> tuple[float, ...]:
    """The fraction of its current audio tokens that each layer is to remove, for budgets that hold in any prompt."""
    start = strategy.layers.start_layer(num_layers)
    ratio = strategy.budget.ratio_for(strategy.schedule, start, num_layers)
    return strategy.schedule.ratios(ratio, start, num_layers)


def check_fit(strategy: Recipe, num_layers: int) -> None:
    """Raises StrategyError if no prompt at all could pass through a decoder of `num_layers` with this strategy."""
    if strategy.then is not None:
        check_fit(strategy.then, num_layers)
    if strategy.every is not None and strategy.budget.kind != "kv":
        if strategy.budget.kind not in ("tokens", "ratio"):
            raise StrategyError(
                f"strategy {strategy.name!r} evicts again while the answer grows (every), but the budget "
                f"{strategy.budget} does not speak of keys; take kv=0.5, tokens or a ratio"
            )
        if strategy.evicts == "audio":
            raise StrategyError(
                f"strategy {strategy.name!r} evicts again while the answer grows (every), but the budget "
                f"{strategy.budget} counts audio tokens, of which an answer brings none, so no key would go again; "
                'take a budget in KV bytes (kv=0.5), or evicts = "any"'
            )
    last = strategy.schedule.exit_layer(strategy.layers.start_layer(num_layers), num_layers)
    if strategy.evicts == "any" and last is not None:
        raise StrategyError(
            f'strategy {strategy.name!r} lets all that is left go at layer {last}, and with evicts = "any" that would '
            "be every key of the prompt"
        )
    if strategy.site == "input" and "attention" in strategy.needs() and strategy.layers.start_layer(num_layers) == 0:
        raise StrategyError(
            f"strategy {strategy.name!r} looks at attention, but before layer 0 there is none yet: "
            'start at layer 1 or later, or take site = "block"'
        )
    if not (strategy.budget.per_prompt or strategy.budget.over_run):
        layer_ratios(strategy, num_layers)
        return
    start = strategy.layers.start_layer(num_layers)
    ratios_of(strategy.schedule, 0.5, start, num_layers)


def clip_survivors(
    strategy: Recipe, ratio: float, num_layers: int, tokens: int, current: int | None = None, first: int = 0
) -> tuple[int, ...]:
    """Audio tokens of one clip that leave each layer from `first` on, for the schedule's own `ratio`.

    `tokens` and `current` are those of `survivors_by_layer`, which does the counting unless the schedule does.
    """
    start = strategy.layers.start_layer(num_layers)
    ratios = ratios_of(strategy.schedule, ratio, start, num_layers)
    own = strategy.schedule.counts(tokens, ratio, start, num_layers)
    last = strategy.schedule.exit_layer(start, num_layers)
    if own is None:
        left = survivors_by_layer(strategy, ratios, tokens, current, first)
        return left if last is None else tuple(0 if i >= last else n for i, n in enumerate(left, first))
    if len(own) != num_layers:
        raise StrategyError(
            f"schedule {strategy.schedule.name!r} is faulty: it counts {len(own)} of {num_layers} layers"
        )
    now = tokens if current is None else current
    counts: list[int] = []
    for wanted in own[first:]:
        now -= min(max(now - wanted, 0), strategy.merger.capacity(now))
        counts.append(now if last is None or first + len(counts) < last else 0)
    return tuple(counts)


def known_ratio(strategy: Recipe, num_layers: int) -> float:
    """The schedule's own ratio, for budgets that hold in any prompt."""
    start = strategy.layers.start_layer(num_layers)
    return strategy.budget.ratio_for(strategy.schedule, start, num_layers)


def survivors_by_layer(
    strategy: Recipe, ratios: Sequence[float], tokens: int, current: int | None = None, first: int = 0
) -> tuple[int, ...]:
    """Audio tokens of one clip that leave each layer from `first` on.

    Layer i removes ``int(n r_i)`` of its current n tokens, as the released code does. With a ``tokens`` budget the
    counts follow the schedule's ideal curve, each rounded to the nearest token, so that rounding does not add up over
    the layers and the last count is the budget's to half a token.

    Args:
        ratios: the fraction each layer removes.
        tokens: audio tokens of the clip before layer 0.
        current: audio tokens of the clip before layer `first`, if not `tokens`.
    """
    raw = strategy.budget.kind != "tokens"
    now = tokens if current is None else current
    ideal, counts = float(tokens), []
    for layer, fraction in enumerate(ratios):
        ideal *= 1.0 - fraction
        if layer < first:
            continue
        wanted = int(now * fraction) if raw else now - math.floor(ideal + 0.5)
        now -= min(max(wanted, 0), strategy.merger.capacity(now)) if fraction > 0 else 0
        counts.append(now)
    return tuple(counts)


def removals(strategy: Recipe, num_layers: int, clips: Sequence[int]) -> list[tuple[int, ...]]:
    """What each layer takes from each clip: `num_layers` tuples, one count a clip; not for ``flops`` and ``kv``."""
    ratio = known_ratio(strategy, num_layers)
    paths = [(tokens, *clip_survivors(strategy, ratio, num_layers, tokens)) for tokens in clips]
    return [tuple(path[i] - path[i + 1] for path in paths) for i in range(num_layers)]


def removals_after(
    strategy: Recipe, num_layers: int, layer: int, clips: Sequence[int], current: Sequence[int]
) -> list[tuple[int, ...]]:
    """What the layers after `layer` take, given what each clip has `current`ly; for mergers that are not exact."""
    ratio = known_ratio(strategy, num_layers)
    paths = [
        (now, *clip_survivors(strategy, ratio, num_layers, tokens, now, layer + 1))
        for tokens, now in zip(clips, current, strict=True)
    ]
    return [tuple(path[i] - path[i + 1] for path in paths) for i in range(num_layers - layer - 1)]


def evictions(
    strategy: Recipe, clips: Sequence[int], plans: Sequence[Sequence[int]], *, site: str
) -> list[tuple[int, ...]]:
    """What a second stage at site ``cache`` evicts from each layer's cache, one count a clip.

    A layer's cache holds the audio tokens that its attention saw; of these it keeps what the stage's schedule has left
    of a clip at this layer.

    Args:
        strategy: the second stage.
        clips: audio tokens of each clip before layer 0; all tokens of each prompt where the stage evicts any.
        plans: what the first stage takes from each clip, or prompt, at each layer.
        site: of the first stage.
    """
    ratio = known_ratio(strategy, len(plans))
    out, left = [], tuple(clips)
    for layer, taken in enumerate(plans):
        after = tuple(n - gone for n, gone in zip(left, taken, strict=True))
        seen = after if site == "input" else left
        out.append(tuple(n - clip_survivors(strategy, ratio, len(plans), n)[layer] for n in seen))
        left = after
    return out
