"""Calibration: a model, a few prepared clips and a strategy, as a layer selector sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastadasp.contracts.components import LayerSelector
from fastadasp.counts.budget import Budget
from fastadasp.counts.shape import DecoderShape
from fastadasp.engine.apply import apply_strategy
from fastadasp.errors import StrategyError
from fastadasp.inference.clips import ReadyClip, batches
from fastadasp.inference.load import LoadedModel
from fastadasp.models.lookup import adapter_for
from fastadasp.recipes.recipe import Recipe
from fastadasp.upstream.names import cache_argument, cache_of

WORDS = 1024
"""Vocabulary entries that `Features.probabilities` keeps."""

Length = tuple[int, int]
"""Text and audio tokens of a prompt."""


class _Start(LayerSelector):
    """A candidate layer."""

    name: ClassVar[str] = "candidate"

    layer: int

    def start_layer(self, num_layers: int) -> int:
        return self.layer


@dataclass(frozen=True)
class Features:
    """What leaves the decoder (last layer and final norm), float32 on the CPU; the clips one after another.

    Row i of `audio`, `prompt` and `answer` is the same token whatever was removed on the way, so the features of two
    runs can be compared point by point, and in equal numbers.

    Attributes:
        audio: [audio tokens, D], a row for every audio token of the prompt. A merged token has its cluster's feature, a
            dropped one that of the nearest survivor.
        survivors: [tokens left, D], the audio tokens that really left the decoder.
        prompt: [text tokens, D], the prompt's text after the audio.
        answer: [answer tokens, D], the positions that the answer's tokens are read from. The answer is what the full
            model says, so no label is needed; it is fed to every run as it stands.

    Example::

        >>> import torch
        >>> rows = torch.zeros(3, 8)
        >>> features = fastadasp.Features(rows, survivors=rows[:2], prompt=rows, answer=rows, probabilities=rows)
        >>> features.survivors.shape
        torch.Size([2, 8])
    """

    audio: Tensor
    survivors: Tensor
    prompt: Tensor
    answer: Tensor
    probabilities: Tensor


class Calibration:
    """Runs the calibration clips with and without a reduction that starts at a given layer.

    Candidates are compared at one budget: each gets the ratio that meets it in every clip. Layers that cannot are left
    out.

    Attributes:
        strategy: the recipe whose start layer is to be chosen.
        budget: what every candidate removes.
        num_layers: decoder layers.
        candidates: start layers that meet the budget, in order.
        left_out: the other layers, each with the reason.

    Example::

        >>> class Nearest(fastadasp.CalibratedSelector):
        ...     name = "nearest"
        ...     def choose(self, calibration):  # a Calibration
        ...         full = calibration.features().answer
        ...         moved = {layer: calibration.features(layer).answer - full for layer in calibration.candidates}
        ...         return fastadasp.LayerChoice.least({layer: float(d.norm()) for layer, d in moved.items()})
    """

    def __init__(
        self,
        loaded: LoadedModel,
        strategy: Recipe,
        clips: Sequence[ReadyClip],
        budget: Budget,
        *,
        lengths: Sequence[Length] = (),
        max_new_tokens: int = 32,
        batch_size: int = 12,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        """Finds the candidates; nothing runs yet.

        Args:
            lengths: further prompts that a candidate has to be able to shorten.
            max_new_tokens: longest answer.
            progress: called with (runs of a clip so far, runs if every candidate is asked for).

        Raises:
            StrategyError: no layer at all can meet the budget.
        """
        self.loaded, self.strategy, self.clips, self.budget = loaded, strategy, tuple(clips), budget
        self._max_new_tokens, self._batch_size = max_new_tokens, batch_size
        self._progress, self._runs = progress, 0
        self._decoder = adapter_for(loaded.model).decoder(loaded.model)
        shape = DecoderShape.of(self._decoder.config)
        self.num_layers = shape.layers
        own = [(clip.tokens - clip.audio_tokens, clip.audio_tokens) for clip in self.clips]
        prompts = list(dict.fromkeys([*own, *lengths]))
        self.left_out: dict[int, str] = {}
        for layer in range(self.num_layers):
            if reason := self._out_of_reach(layer, shape, prompts):
                self.left_out[layer] = reason
        self.candidates = tuple(layer for layer in range(self.num_layers) if layer not in self.left_out)
        if not self.candidates:
            raise StrategyError(f"no start layer of {self.num_layers} meets the budget: {self.left_out[0]}")
        self._features: dict[int | None, Features] = {}
        self._answers: list[Tensor] | None = None
        self._words: Tensor | None = None

    def at(self, layer: int) -> Recipe:
        """The strategy, started at `layer` under the common budget."""
        return self.strategy.replace(layers=_Start(layer=layer), budget=self.budget)

    @torch.inference_mode()
    def features(self, layer: int | None = None) -> Features:
        """The features of the run that starts to remove at `layer`, or of the full model; computed once."""
        if layer not in self._features:
            if layer is not None:
                self.features(None)  # says which words are kept
            strategy = None if layer is None else self.at(layer)
            parts = [self._run(clip, answer, strategy) for clip, answer in zip(self.clips, self._say(), strict=True)]
            if self._words is None:
                total = torch.stack([part[-1].square().sum(0) for part in parts]).sum(0)
                self._words = total.topk(min(WORDS, len(total))).indices.sort().values
                parts = [(*part[:-1], part[-1][:, self._words]) for part in parts]
            self._features[layer] = Features(*(torch.cat(part) for part in zip(*parts, strict=True)))
        return self._features[layer]

    def _out_of_reach(self, layer: int, shape: DecoderShape, prompts: Sequence[Length]) -> str | None:
        faults = []
        for text, audio in prompts:
            try:
                self.at(layer).solve(shape, text, [audio], nearest=True)
            except StrategyError as error:
                faults.append(str(error))
        return f"{len(faults)} of {len(prompts)} prompt lengths: {faults[0]}" if faults else None

    def _say(self) -> list[Tensor]:
        """The full model's answers, token ids [1, tokens] each, at least one token."""
        if self._answers is None:
            answers: list[Any] = [None] * len(self.clips)
            stop = _ids(self.loaded.model.generation_config.eos_token_id)
            for batch in batches(self.clips, self._batch_size, self.loaded.device):
                tokens = self.loaded.model.generate(
                    inputs_embeds=batch.embeds,
                    attention_mask=batch.mask,
                    max_new_tokens=self._max_new_tokens,
                    do_sample=False,
                    num_beams=1,
                    **batch.side,
                )
                for place, row in zip(batch.places, tokens, strict=True):
                    ends = [i for i, token in enumerate(row.tolist()) if token in stop]
                    answers[place] = row[: ends[0] + 1 if ends else None].unsqueeze(0)
            self._answers = answers
        return self._answers

    def _run(self, clip: ReadyClip, answer: Tensor, strategy: Recipe | None) -> tuple[Tensor, ...]:
        """One clip's `Features`, field by field. One clip at a time: nothing is padded."""
        self._progress(self._runs, len(self.clips) * (1 + len(self.candidates)))
        self._runs += 1
        model, device, length = self.loaded.model, self.loaded.device, clip.tokens
        spans = clip.span_ids.to(device).unsqueeze(0)
        seen: list[Tensor] = []
        handle = self._decoder.register_forward_hook(lambda _m, _a, out: seen.append(out[0][0].float().cpu()))
        try:
            work = None if strategy is None else apply_strategy(strategy, model, spans=spans, encoder=clip.encoder)
            with nullcontext() if work is None else work as trace:
                if trace is not None:
                    trace.keep_assignment = True
                whole = torch.ones(1, length + answer.shape[1], dtype=torch.int64, device=device)
                embeds = clip.embeds.to(device).unsqueeze(0)
                side = {name: value.to(device).unsqueeze(0) for name, value in clip.side.items()}
                out = model(inputs_embeds=embeds, attention_mask=whole[:, :length], use_cache=True, **side)
                said = [out.logits[0, -1:]]
                moved = None if trace is None or trace.assignment is None else trace.assignment[0].cpu()
                if answer.shape[1] > 1:
                    steps = torch.arange(length, length + answer.shape[1] - 1, device=device)
                    then = model(
                        input_ids=answer[:, :-1],
                        attention_mask=whole[:, :-1],
                        position_ids=steps.unsqueeze(0),
                        use_cache=True,
                        **cache_argument(cache_of(out)),
                        **side,
                    )
                    said.append(then.logits[0])
        finally:
            handle.remove()
        states, place = seen[0], torch.arange(length) if moved is None else moved
        sound = clip.span_ids > 0
        columns = place[sound]
        text = int(length - sound.nonzero()[-1] - 1)  # text after the audio, which the last token is part of
        prompt = states[len(states) - text :]
        read = torch.cat([states[-1:], *seen[1:]])
        odds = torch.cat(said).float().softmax(-1).sqrt().cpu()
        kept = odds if self._words is None else odds[:, self._words]
        return states[_nearest(columns)], states[columns[columns >= 0].unique()], prompt, read, kept


def _nearest(columns: Tensor) -> Tensor:
    """The columns with those of dropped tokens (-1) replaced by the nearest survivor's, the earlier one of two."""
    kept = (columns >= 0).nonzero().flatten()
    if len(kept) == 0:
        return columns  # nothing is left: the prompt's last column stands for all
    distance = (torch.arange(len(columns)).unsqueeze(1) - kept).abs()
    return columns[kept[distance.argmin(1)]]


def _ids(value: Any) -> set[int]:
    return set() if value is None else set(value) if isinstance(value, list) else {value}
