"""Runs one cell: one strategy (or none) over the clips of one task, with time and cost."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from statistics import fmean, median, pstdev
from typing import Any, Protocol

import torch

from fastadasp.counts.shape import DecoderShape
from fastadasp.counts.solve import reach
from fastadasp.engine.apply import apply_strategy
from fastadasp.engine.trace import LayerTrace
from fastadasp.errors import ModelError, StrategyError
from fastadasp.inference.clips import Batch, ReadyClip, batches
from fastadasp.inference.content import settle
from fastadasp.inference.costs import Efficiency, SampleCost, cache_bytes, sample_costs
from fastadasp.inference.load import LoadedModel
from fastadasp.inference.machine import clock, machine_name
from fastadasp.models.lookup import adapter_for
from fastadasp.recipes.recipe import Recipe
from fastadasp.upstream.names import cache_of


@dataclass(frozen=True)
class Outcome:
    """Answers and what each cost, both in the clips' order; and what all cost together."""

    predictions: list[str]
    costs: list[SampleCost]
    efficiency: Efficiency


class Runner(Protocol):
    """What answers the clips of a cell: transformers, or another engine.

    Attributes:
        name: of the engine, with its release where that is not one of the run's versions.
    """

    @property
    def name(self) -> str: ...

    def check(self, strategy: Recipe) -> None:
        """Raises StrategyError, in a sentence, for a recipe that the engine cannot apply."""

    def run(
        self,
        loaded: LoadedModel,
        strategy: Recipe | None,
        clips: Sequence[ReadyClip],
        *,
        max_new_tokens: int,
        batch_size: int,
        progress: Callable[[int], None],
        encoder_flops: float | None = None,
        choices: tuple[str, str] | None = None,
    ) -> Outcome:
        """As `run_cell`."""


class Transformers:
    """The model that is loaded, by its own ``generate``."""

    name = "transformers"

    def check(self, strategy: Recipe) -> None:
        """All recipes can be applied."""

    def run(self, loaded: LoadedModel, strategy: Recipe | None, clips: Sequence[ReadyClip], **options: Any) -> Outcome:
        """As `run_cell`."""
        return run_cell(loaded, strategy, clips, **options)


class _Stopwatch:
    """Times the first forward pass of a `generate` and the whole of it."""

    def __init__(self, device: str) -> None:
        self.device, self.first, self.steps = device, 0.0, 0

    def after_forward(self, module: Any, args: Any, output: Any) -> None:
        self.steps += 1
        if self.steps == 1:
            self.first = clock(self.device)


@contextmanager
def no_collector() -> Iterator[None]:
    """Python's garbage collector waits, so that it does not fall into a measurement."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@torch.inference_mode()
def run_cell(
    loaded: LoadedModel,
    strategy: Recipe | None,
    clips: Sequence[ReadyClip],
    *,
    max_new_tokens: int | Sequence[int],
    batch_size: int,
    progress: Callable[[int], None],
    encoder_flops: float | None = None,
    choices: tuple[str, str] | None = None,
) -> Outcome:
    """Answers of the model under `strategy`; calls `progress(clips)` after each batch.

    Args:
        max_new_tokens: the longest answer; a list where each clip has its own.
        encoder_flops: FLOPs of the encoder for one clip, to be reported with those of the decoder.
        choices: see `Task.choices`.

    Raises:
        StrategyError: some clips, or all of them together, cannot meet the strategy's budget; nothing has run then.
    """
    shape = DecoderShape.of(adapter_for(loaded.model).decoder(loaded.model).config)
    threshold: float | None = None
    if strategy is not None and strategy.budget.over_run:
        strategy, threshold = settle(loaded, strategy, clips, batch_size)
    if strategy is not None:
        check_reach(strategy, shape, clips)
    width = torch.tensor([], dtype=getattr(torch, loaded.dtype)).element_size()
    limits = [max_new_tokens] * len(clips) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    answers = [""] * len(clips)
    costs: dict[int, SampleCost] = {}
    prefill, decode, steps, held, whole = [], [], list[int](), 0, 0
    shares: tuple[list[float], list[float]] = [], []
    with no_collector():
        for batch in batches(clips, batch_size, loaded.device):
            said = _generate(loaded, strategy, batch, [limits[i] for i in batch.places], choices)
            for place, text in zip(batch.places, said.texts, strict=True):
                answers[place] = text
            audio = [clip.audio_tokens for clip in batch.clips]
            prompts = [clip.tokens for clip in batch.clips]
            spent = sample_costs(shape, said.layers, audio, prompts, width, strategy, batch.encoder)
            costs.update(zip(batch.places, spent, strict=True))
            prefill.append(said.prefill)
            decode.append(said.decode)
            for its, took in zip(shares, (said.prefill, said.decode), strict=True):
                its += [took / len(batch.clips)] * len(batch.clips)
            steps.append(said.steps)
            held += said.held
            whole += shape.kv_bytes([len(batch.clips) * (batch.mask.shape[1] + said.steps)] * shape.layers, width)
            progress(len(batch.clips))
    ordered = [costs[i] for i in range(len(clips))]
    spent_in_all = efficiency(ordered, prefill, decode, steps, batch_size, encoder_flops)
    more: dict[str, Any] = clip_times(loaded, clips, shares[0], shares[1])
    more |= {"threshold": threshold, "kv_bytes_end": held / len(clips), "kv_removed_end": 1 - held / whole}
    return Outcome(answers, ordered, spent_in_all.model_copy(update=more))


def clip_times(
    loaded: LoadedModel, clips: Sequence[ReadyClip], prefill: Sequence[float], decode: Sequence[float]
) -> dict[str, Any]:
    """The times of a clip, as fields of `Efficiency`. Medians, since one pause of the machine would rule a mean.

    Args:
        prefill, decode: seconds of each clip, in any order.
    """
    known = [clip.encoding for clip in clips if clip.encoding is not None]
    told = len(known) == len(clips)
    return {
        "encoder_clip_seconds": median(one.seconds for one in known) if told else None,
        "encoder_machine": "; ".join(dict.fromkeys(one.machine for one in known)) if told else None,
        "prefill_clip_seconds": median(prefill),
        "decode_clip_seconds": median(decode),
        "machine": machine_name(loaded.device),
    }


def check_reach(strategy: Recipe, shape: DecoderShape, clips: Sequence[ReadyClip]) -> None:
    """Raises StrategyError if some of the clips cannot meet the budget: how many, and the one furthest from it."""
    if not strategy.budget.per_prompt:
        return
    faults: list[tuple[float, str]] = []
    for clip in clips:
        text, audio = clip.tokens - clip.audio_tokens, [clip.audio_tokens]
        try:
            strategy.solve(shape, text, audio, nearest=True)
        except StrategyError as error:
            faults.append((reach(strategy, shape, text, audio)[1], f"{error} (clip {clip.example.id})"))
    if faults:
        raise StrategyError(f"{len(faults)} of {len(clips)} clips cannot meet the budget; {min(faults)[1]}")


@dataclass(frozen=True)
class _Said:
    """Answers to a batch, and what they took: seconds of the prefill and of all steps after it, these steps, and the
    bytes of the cache at the end."""

    texts: list[str]
    layers: list[LayerTrace]
    prefill: float
    decode: float
    steps: int
    held: int


def _generate(
    loaded: LoadedModel,
    strategy: Recipe | None,
    batch: Batch,
    limits: Sequence[int],
    choices: tuple[str, str] | None = None,
) -> _Said:
    watch = _Stopwatch(loaded.device)
    work = (
        nullcontext()
        if strategy is None
        else apply_strategy(strategy, loaded.model, spans=batch.span_ids, encoder=batch.encoder)
    )
    with work as trace:
        handle = loaded.model.register_forward_hook(watch.after_forward)
        try:
            begin = clock(loaded.device)
            said = loaded.model.generate(
                inputs_embeds=batch.embeds,
                attention_mask=batch.mask,
                max_new_tokens=max(limits) if choices is None else 1,
                do_sample=False,
                num_beams=1,
                return_dict_in_generate=True,
                output_logits=choices is not None,
                **batch.side,
            )
            end = clock(loaded.device)
        finally:
            handle.remove()
    if choices is None:
        # a clip beside one that may have a longer answer ends where it would alone
        own = [row[:limit] for row, limit in zip(said.sequences.tolist(), limits, strict=True)]
        decoded = loaded.processor.batch_decode(own, skip_special_tokens=True)
        texts = [text.strip() for text in decoded]
    else:
        texts = choose(loaded, said.logits[0], choices)
    layers = [] if trace is None else list(trace.layers)
    steps = watch.steps - 1
    return _Said(texts, layers, watch.first - begin, end - watch.first, steps, cache_bytes(cache_of(said)))


@torch.inference_mode()
def seconds_of(
    loaded: LoadedModel, clips: Sequence[ReadyClip], max_new_tokens: int, choices: tuple[str, str] | None = None
) -> float:
    """Seconds that the full model takes for one batch."""
    (batch,) = batches(clips, len(clips), loaded.device)
    said = _generate(loaded, None, batch, [max_new_tokens] * len(clips), choices)
    return said.prefill + said.decode


def choose(loaded: LoadedModel, logits: torch.Tensor, choices: tuple[str, str]) -> list[str]:
    """How probable the first choice is against the second, as text, from the first new token's logits [B, vocabulary].

    A choice may begin in lower or upper case, with a space before it or not.

    Raises:
        ModelError: both begin with the same token.
    """
    tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)

    def begins(choice: str) -> set[int]:
        written = (space + word for space in ("", " ") for word in (choice, choice.capitalize()))
        return {ids[0] for text in written if (ids := tokenizer(text, add_special_tokens=False).input_ids)}

    first, second = (begins(choice) for choice in choices)
    one, other = sorted(first - second), sorted(second - first)
    if not one or not other:
        raise ModelError(f"the model's tokenizer begins {choices[0]!r} and {choices[1]!r} with the same token")
    kept = logits.float()
    odds = kept[:, one].logsumexp(1) - kept[:, other].logsumexp(1)
    return [f"{probability:.6f}" for probability in odds.sigmoid().tolist()]


def warm_up(loaded: LoadedModel, clip: ReadyClip) -> None:
    """One short run whose time is not counted."""
    for batch in batches([clip], 1, loaded.device):
        generate_few(loaded, batch)


@torch.inference_mode()
def generate_few(loaded: LoadedModel, batch: Batch) -> None:
    """Two new tokens of the full model for a batch, of which nothing is kept."""
    _generate(loaded, None, batch, [2] * len(batch.clips))


def efficiency(
    costs: Sequence[SampleCost],
    prefill: list[float],
    decode: list[float],
    steps: list[int],
    batch_size: int,
    encoder_flops: float | None,
) -> Efficiency:
    def removed(left: str, full: str) -> float:
        whole = sum(getattr(cost, full) for cost in costs)
        return 1 - sum(getattr(cost, left) for cost in costs) / whole if whole else 0.0

    def mean(name: str) -> float:
        return fmean(getattr(cost, name) for cost in costs)

    shares = [1 - cost.audio_tokens_left / cost.audio_tokens for cost in costs]

    def share(own: float, encoder: float) -> float:
        whole = mean("flops_full") + encoder
        return (mean("flops_full") - mean("flops") - own) / whole if whole else 0.0

    known = [cost.own_flops for cost in costs if cost.own_flops is not None]
    own = fmean(known) if len(known) == len(costs) else None
    return Efficiency(
        removed_deviation=pstdev(shares),
        removed_least=min(shares),
        removed_most=max(shares),
        audio_tokens=mean("audio_tokens"),
        audio_tokens_left=mean("audio_tokens_left"),
        audio_tokens_removed=removed("audio_tokens_left", "audio_tokens"),
        kv_bytes=mean("kv_bytes"),
        kv_removed=removed("kv_bytes", "kv_bytes_full"),
        flops=mean("flops"),
        flops_removed=removed("flops", "flops_full"),
        own_flops=own,
        flops_removed_net=None if own is None else share(own, 0.0),
        encoder_flops=encoder_flops,
        flops_with_encoder=None if encoder_flops is None else mean("flops") + encoder_flops,
        flops_removed_with_encoder=None if encoder_flops is None else share(0.0, encoder_flops),
        flops_removed_net_with_encoder=None if own is None or encoder_flops is None else share(own, encoder_flops),
        prefill_seconds=median(prefill[1:] or prefill),  # the first batch warms caches up
        decode_seconds=median(decode[1:] or decode),
        new_tokens=fmean(steps),
        batch_size=batch_size,
    )
