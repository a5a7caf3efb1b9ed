"""One reduction alone, against the released method: `fastadasp bench operator`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from fastadasp.bench import released
from fastadasp.bench.limits import check_room, operator_bytes
from fastadasp.bench.machine import held_bytes, machine, peak_bytes, reset_peak
from fastadasp.contracts.token_plan import TokenPlan
from fastadasp.engine.adjacent import cosine_to_next_key
from fastadasp.engine.received import received_attention
from fastadasp.engine.spans import AudioSpans, find_spans
from fastadasp.engine.stream import Stream, apply_plan
from fastadasp.errors import RunError
from fastadasp.inference.machine import out_of_memory, wait
from fastadasp.inference.runner import no_collector
from fastadasp.ops import clusters_from_joins, largest

HEAD_DIM = 128
_ENOUGH = 0.1
"""Seconds that a step is repeated for in a round, whichever step it is."""
REMOVE = 0.5
"""Fraction of the tokens that goes."""
_LONGEST = 20.0
"""Seconds after which a step is not run again."""


@dataclass(frozen=True)
class Case:
    """Random queries, keys and states of a prompt that is all audio: [1, heads, T, 128] and [1, T, hidden]."""

    query: Tensor
    key: Tensor
    states: Tensor
    spans: AudioSpans

    @classmethod
    def make(cls, tokens: int, hidden: int, dtype: str, device: str) -> Case:
        """As many heads as queries and keys of size 128 need for `hidden` channels."""
        kind = getattr(torch, dtype)
        heads = hidden // HEAD_DIM
        parts = [torch.randn(1, heads, tokens, HEAD_DIM, device=device, dtype=kind) for _ in range(2)]
        states = torch.randn(1, tokens, hidden, device=device, dtype=kind)
        return cls(
            parts[0], parts[1], states, find_spans(torch.ones(1, tokens, dtype=torch.int64, device=device), None)
        )

    @property
    def tokens(self) -> int:
        return self.states.shape[1]

    @cached_property
    def remove(self) -> Tensor:
        """How many tokens go, int64 [1], where the engine has it: on the device."""
        return torch.full((1,), self.removed, dtype=torch.int64, device=self.states.device)

    @property
    def removed(self) -> int:
        return int(self.tokens * REMOVE)

    def scores(self) -> tuple[Tensor, Tensor]:
        """Affinities [1, T - 1] and weights [1, T]."""
        weights = received_attention(self.query, self.key, HEAD_DIM**-0.5, spans=self.spans)
        return cosine_to_next_key(self.key, self.spans), weights

    def merge(self, similar: Tensor, weight: Tensor) -> Tensor:
        """Plan and means, [1, T - removed, hidden]."""
        valid = self.spans.columns()[1]
        plan = TokenPlan(clusters_from_joins(largest(similar, self.remove), valid), weight)
        stream = Stream((self.tokens,), self.tokens, None, self.spans)
        return apply_plan(stream, plan, (self.tokens - self.removed,))[0].reduce(self.states)


def run(
    tokens: Sequence[int],
    hidden: Sequence[int],
    dtypes: Sequence[str],
    device: str,
    *,
    rounds: int = 7,
    matrix_limit: int = 16 << 30,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Iterator[dict[str, Any]]:
    """Rows of the benchmark.

    Args:
        tokens: audio tokens, 2 or more.
        hidden: channels, multiples of 128.
        dtypes: ``float32``, ``bfloat16``, ``float16``.
        matrix_limit: bytes that the released way's attention matrix may take; above it is not run.
        progress: called before each turn of a case with its name, the turns that are done and all of them.

    Raises:
        RunError: an argument is wrong.
    """
    for name, values, step, least in (("tokens", tokens, 1, 2), ("hidden", hidden, HEAD_DIM, HEAD_DIM)):
        for value in values:
            if value < least or value % step:
                raise RunError(f"{name} {value} is not possible: multiples of {step}, at least {least}")
    if rounds < 1:
        raise RunError(f"rounds must be at least 1, not {rounds}")
    for dtype in dtypes:
        for width in hidden:
            for count in tokens:
                less = "ask for fewer --tokens, a smaller --hidden or --dtype bfloat16"
                check_room(f"{count} x {width} in {dtype}", operator_bytes(count, width, dtype), device, less)
    about = machine(device)
    cases = [(dtype, width, count) for dtype in dtypes for width in hidden for count in tokens]
    for number, (dtype, width, count) in enumerate(cases):

        def tell(turn: int, before: int = number * rounds, name: str = f"{count} x {width}, {dtype}") -> None:
            progress(name, before + turn, len(cases) * rounds)

        gc.collect()
        with torch.inference_mode(), no_collector():
            tell(0)
            try:
                row = _row(Case.make(count, width, dtype, device), dtype, device, rounds, matrix_limit, tell)
            except Exception as error:
                if out_of_memory(error):
                    raise RunError(
                        f"{count} x {width} in {dtype} does not fit into the memory of {about['device']}"
                    ) from None
                raise
        yield row | about


def _row(
    case: Case, dtype: str, device: str, rounds: int, matrix_limit: int, tell: Callable[[int], None]
) -> dict[str, Any]:
    similar, weight = case.scores()
    heads = case.query.shape[1]
    fits = released.matrix_bytes(heads, case.tokens, case.query.dtype) <= matrix_limit
    steps: dict[str, Callable[[], Any]] = {
        "score_s": case.scores,
        "merge_s": lambda: case.merge(similar, weight),
        "released_merge_s": lambda: released.merge(case.states[0], similar[0], weight[0], case.removed),
    }
    if fits:
        steps["released_score_s"] = lambda: (
            released.received(case.query, case.key, HEAD_DIM**-0.5),
            released.affinity(case.key),
        )
    found: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for turn in range(rounds):
        tell(turn)
        for place in range(len(order)):
            name = order[(place + turn) % len(order)]
            if sum(found[name]) < _LONGEST:
                found[name].append(_time(steps[name], device))
    out: dict[str, Any] = {name: median(times) for name, times in found.items()} | {"score_bytes": _extra(case, device)}
    out["merge_ratio"] = out["released_merge_s"] / out["merge_s"]
    ours, theirs = out["score_s"] + out["merge_s"], out["released_merge_s"] + out.get("released_score_s", 0.0)
    out.setdefault("released_score_s", None)
    out["operator_ratio"] = theirs / ours if fits else None
    size = case.states.element_size() * case.states.shape[2] * (2 * case.tokens - case.removed)
    out["merge_bytes_per_s"] = size / out["merge_s"]
    out["copy_bytes_per_s"] = _copy_rate(case, device)
    head = {"tokens": case.tokens, "hidden": case.states.shape[2], "heads": heads, "dtype": dtype, "kind": device}
    return head | out


def _time(step: Callable[[], Any], device: str) -> float:
    """Seconds of one call. A short step runs again and again: what the step before left in the caches is no cost."""
    begin, taken = perf_counter(), list[float]()
    while not taken or perf_counter() - begin < _ENOUGH:
        wait(device)
        start = perf_counter()
        step()
        wait(device)
        taken.append(perf_counter() - start)
    return median(taken)


def _extra(case: Case, device: str) -> int | None:
    """Memory that scoring takes beyond what is there before it."""
    wait(device)
    reset_peak(device)
    before = held_bytes(device)
    case.scores()
    wait(device)
    peak = peak_bytes(device)
    return None if peak is None or before is None else max(0, peak - before)


def _copy_rate(case: Case, device: str) -> float:
    """Bytes read and written a second by a plain copy of the states, which a merge is held against."""
    target = torch.empty_like(case.states)
    taken = median(_time(lambda: target.copy_(case.states), device) for _ in range(9))
    return 2 * case.states.numel() * case.states.element_size() / taken
