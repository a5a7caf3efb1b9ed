"""A benchmark of a whole model: every strategy and budget beside the full model, in interleaved rounds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import isfinite
from statistics import median, quantiles
from typing import Any

from fastadasp.bench.encoders import Encoder, build_encoder
from fastadasp.bench.limits import check_room, model_bytes
from fastadasp.bench.machine import machine
from fastadasp.bench.measure import Prompt, Timed, flops, make_prompt, time_encoder, time_reduction, time_run
from fastadasp.bench.shapes import BenchShape, build
from fastadasp.counts.budget import Budget
from fastadasp.errors import RunError
from fastadasp.inference.machine import out_of_memory
from fastadasp.inference.runner import no_collector
from fastadasp.strategy import Strategy, load_strategy

FULL = "full"


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        seconds: lengths of the recording.
        beams: beams of ``generate``; each has the whole prompt.
        text: text tokens of the prompt.
        compiled: whether decoding is compiled, over a static cache.
        rounds: how often each setting runs, after `warmup` runs that do not count.
    """

    shape: BenchShape
    seconds: Sequence[float]
    strategies: Sequence[str]
    budgets: Sequence[str]
    beams: Sequence[int] = (1,)
    batch: int = 1
    new_tokens: int = 32
    text: int = 50
    rounds: int = 5
    warmup: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    attention: str = "sdpa"
    compiled: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raises RunError or StrategyError before anything heavy is done."""
        numbers = {"batch": self.batch, "new tokens": self.new_tokens, "rounds": self.rounds, "beams": min(self.beams)}
        for name, number in numbers.items():
            if number < 1:
                raise RunError(f"{name} must be at least 1, not {number}")
        if self.warmup < 0:
            raise RunError(f"warm-up rounds are at least 0, not {self.warmup}")
        for seconds in self.seconds:
            if not (isfinite(seconds) and seconds > 0):
                raise RunError(f"seconds of audio must be a number above 0, not {seconds:g}")
        if not self.seconds:
            raise RunError("no length of audio is given")
        if self.text < 1:
            raise RunError(f"a prompt has at least 1 text token, not {self.text}")
        if self.attention not in ("sdpa", "eager"):
            raise RunError(f"attention is sdpa or eager, not {self.attention!r}")
        self.recipes()

    def check_room(self) -> None:
        """Raises RunError if this machine's memory cannot hold what is to be measured."""
        less = "take a smaller --shape, fewer --seconds, a smaller --batch or --dtype bfloat16"
        for beams in self.beams:
            for seconds in self.seconds:
                needed = model_bytes(
                    self.shape, seconds, self.text, self.new_tokens, self.batch, beams, self.dtype, self.attention
                )
                check_room(f"{self.shape.name} with {self._words(seconds, beams)}", needed, self.device, less)

    def _words(self, seconds: float, beams: int) -> str:
        return f"{seconds:g} s of audio, batch {self.batch} and {beams} beam{'s' if beams > 1 else ''} in {self.dtype}"

    def recipes(self) -> list[Strategy]:
        """Every strategy with every budget."""
        out = []
        for name in self.strategies:
            recipe = load_strategy(name, **self.overrides)
            if recipe.needs_calibration:
                raise RunError(
                    f"strategy {name!r} chooses its layer on clips of a task, which random weights cannot; "
                    "give it one: --set layers.layer=2"
                )
            out += [recipe.with_budget(budget) for budget in Budget.several(list(self.budgets))]
        return out


def run(plan: Plan, progress: Callable[[str, int, int], None] = lambda *_: None) -> Iterator[list[dict[str, Any]]]:
    """Measures; yields the rows of each audio length and number of beams, the full model's first.

    Args:
        progress: called before each run with what it is, the runs that are done and all of them.

    Raises:
        RunError: an option is wrong, or the device has not enough memory.
        StrategyError: a budget cannot be met.
    """
    plan.check()
    plan.check_room()
    recipes = plan.recipes()
    each = (plan.warmup + plan.rounds + 1) * (len(recipes) + 1)
    total, done = each * len(plan.beams) * len(plan.seconds), 0
    progress(f"weights of {plan.shape.name}", 0, total)
    about = machine(plan.device)
    try:
        model = build(plan.shape, plan.device, plan.dtype, plan.attention)
        encoder = build_encoder(plan.shape.encoder, plan.device, plan.dtype, plan.attention)
    except Exception as error:
        raise _too_large(error, plan, plan.shape.name, about) from None
    for beams in plan.beams:
        for seconds in plan.seconds:
            name = f"{plan.shape.name}, {seconds:g} s, {beams} beam{'s' if beams > 1 else ''}"

            def tell(turn: int, name: str = name, before: int = done) -> None:
                progress(name, before + turn, total)

            try:
                prompt = make_prompt(model, plan.shape.tokens(seconds), plan.text, plan.batch)
                yield _rows(plan, model, encoder, prompt, recipes, seconds, beams, about, tell)
            except Exception as error:
                raise _too_large(error, plan, f"{plan.shape.name} with {plan._words(seconds, beams)}", about) from None
            done += each


def _too_large(error: Exception, plan: Plan, what: str, about: dict[str, Any]) -> Exception:
    """The message for what did not fit into memory; any other error as it is."""
    if not out_of_memory(error):
        return error
    return RunError(f"{what} does not fit into the memory of {about['device']}")


def _rows(
    plan: Plan,
    model: Any,
    encoder: Encoder,
    prompt: Prompt,
    recipes: list[Strategy],
    seconds: float,
    beams: int,
    about: dict[str, Any],
    tell: Callable[[int], None],
) -> list[dict[str, Any]]:
    cells: list[Strategy | None] = [None, *recipes]
    timed: list[list[Timed]] = [[] for _ in cells]
    heard, sounds, turns = list[float](), encoder.inputs(seconds, plan.batch), count()
    gc.collect()
    with no_collector():
        for turn in range(-plan.warmup, plan.rounds):
            for place in range(len(cells)):
                tell(next(turns))
                if place == 0:  # the same for all: nothing that a strategy does reaches the encoder
                    heard += [time_encoder(encoder, sounds, plan.device)][: turn >= 0]
                index = (place + turn) % len(cells)  # each round starts with another one
                one = time_run(model, prompt, cells[index], beams, plan.new_tokens, plan.compiled)
                if turn >= 0:
                    timed[index].append(one)
        tell(next(turns))
        added = [None if cell is None else _reduction(plan, model, prompt, cell, beams) for cell in cells]
    wholes = [median(heard) + median(run.prefill_s + (run.decode_s or 0.0) for run in runs) for runs in timed]
    full_prefill = median(run.prefill_s for run in timed[0])
    out = []
    for cell, runs, extra, together in zip(cells, timed, added, wholes, strict=True):
        left, whole = flops(model, prompt, runs[0].layers)
        prefill = [run.prefill_s for run in runs]
        decode = [run.decode_s for run in runs if run.decode_s is not None]
        speedup, ideal = full_prefill / median(prefill), whole / left
        total = median(prefill) + (median(decode) if decode else 0.0)
        out.append(
            {
                "shape": plan.shape.name,
                "strategy": FULL if cell is None else cell.name,
                "budget": None if cell is None else str(cell.budget),
                "seconds": seconds,
                "audio_tokens": prompt.audio,
                "text_tokens": prompt.text,
                "batch": plan.batch,
                "beams": beams,
                "new_tokens": plan.new_tokens,
                "encoder_s": median(heard),
                "encoder_quartiles_s": _quartiles(heard),
                "whole_s": together,
                "whole_saved": 1 - together / wholes[0],
                "prefill_s": median(prefill),
                "prefill_quartiles_s": _quartiles(prefill),
                "decode_s": median(decode) if decode else None,
                "decode_quartiles_s": _quartiles(decode) if decode else None,
                "decode_tokens_per_s": plan.batch * (plan.new_tokens - 1) / median(decode) if decode else None,
                "real_time_factor": total / (seconds * plan.batch),
                "peak_bytes": _most(run.peak_bytes for run in runs),
                "prefill_peak_bytes": _most(run.prefill_peak_bytes for run in runs),
                "kv_bytes": runs[0].kv_bytes,
                "flops_removed": 1 - left / whole,
                "ideal_speedup": ideal,
                "prefill_speedup": speedup,
                "realised": speedup / ideal,
                "reduction_s": None if extra is None else extra[0],
                "reduction_share": None if extra is None else extra[0] / median(prefill),
                "reduction_bytes": None if extra is None else extra[1],
                "rounds": plan.rounds,
                "dtype": plan.dtype,
                "attention": plan.attention,
                "compiled": plan.compiled,
                **about,
            }
        )
    return out


def _reduction(plan: Plan, model: Any, prompt: Prompt, cell: Strategy, beams: int) -> tuple[float, int | None]:
    """Median time and most memory of what the strategy adds."""
    runs = [time_reduction(model, prompt, cell, beams) for _ in range(min(3, plan.rounds) + bool(plan.warmup))]
    runs = runs[bool(plan.warmup) :]
    return median(run.seconds for run in runs), _most(run.bytes for run in runs)


def _quartiles(values: list[float]) -> list[float]:
    """The first and the third."""
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return [low, high]


def _most(values: Any) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
