"""The check of strategies: a recipe at work inside a decoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from fastadasp.counts.growth import held_after
from fastadasp.counts.shape import DecoderShape
from fastadasp.engine.trace import LayerTrace, Trace
from fastadasp.models.lookup import adapter_for
from fastadasp.strategy import Strategy, load_strategy
from fastadasp.testing.failure import Subject, difference
from fastadasp.testing.model import embeddings, small_decoder
from fastadasp.testing.views import SIDES, Prompt, Side, encoder_of

CLOSE = 1e-4
"""Largest relative difference (of norms, float32) between a prompt's logits alone and in a batch."""
STEPS = 4
"""Tokens to generate."""
MOST_STEPS = 40
"""The same for recipes that evict again after many tokens."""
PROMPTS = (
    Prompt((5, 7), (43,), 1),
    Prompt((3, 4), (24,), 2),
    Prompt((2, 3, 6), (34, 27), 3),
    Prompt((9,), (), 4),
)


@torch.no_grad()
def check_strategy(
    strategy: str | PathLike[str] | Mapping[str, Any] | Strategy, *, model: Any = None, num_layers: int = 8
) -> None:
    """Checks that a strategy works as a whole, in a small decoder of random weights on the CPU.

    Each prompt gets in a padded batch what it gets alone, in its logits, its token counts and what it generates; as
    many tokens go as the budget says, again as an answer grows if the recipe has `every`; the same comes out again,
    whatever the state of torch's generators, and the seed makes a difference if and only if a component says so;
    afterwards, also after an exception, the model is as it was.

    The components have checks of their own. A start layer that is still to be chosen by calibration is taken to be 1.

    Args:
        strategy: what `fastadasp.load_strategy` takes.
        model: a transformers model to check it in, on the CPU in float32, instead.
        num_layers: layers of the small decoder, for strategies that start late.

    Raises:
        ConformanceError: it does not.
    """
    recipe = load_strategy(strategy)
    subject = Subject(f"strategy {recipe.name!r} (budget {recipe.budget})")
    if recipe.needs_calibration:
        recipe = recipe.replace(layers=recipe.layers.model_copy(update={"layer": 1}))
    model = small_decoder(num_layers) if model is None else model
    lab = _Lab(subject, recipe, model)
    plain = lab.run(PROMPTS, None)
    _check_repeats(lab)
    _check_counts(lab)
    _check_company(lab)
    _check_growth(lab)
    _check_seed(lab)
    _check_model_is_left_alone(lab, plain)
    if next(model.parameters()).dtype == torch.float32:
        half = _Lab(subject, recipe, copy.deepcopy(model).to(torch.bfloat16))
        at = subject.when("a batch of prompts in bfloat16")
        at.expect(
            bool(half.run(PROMPTS, recipe).logits.isfinite().all()), "logits that are not finite", "finite logits"
        )


@dataclass(frozen=True)
class _Outcome:
    """What came of a prompt pass: `logits` [B, vocabulary] of each prompt's last token, and the trace."""

    logits: Tensor
    layers: list[LayerTrace]
    assignment: Tensor | None


@dataclass(frozen=True)
class _Lab:
    """A model, a strategy, and how to run them."""

    subject: Subject
    strategy: Strategy
    model: Any

    def inputs(self, prompts: Sequence[Prompt], side: Side = "left") -> tuple[dict[str, Tensor], Tensor]:
        """What the model is called with, and the spans."""

        def pad(rows: list[Tensor]) -> Tensor:
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side=side)

        embeds = pad([embeddings(self.model, prompt) for prompt in prompts]).to(self.model.dtype)
        mask = pad([torch.ones(len(prompt), dtype=torch.int64) for prompt in prompts])
        spans = pad([torch.tensor(prompt.span_ids()) for prompt in prompts])
        return {"inputs_embeds": embeds, "attention_mask": mask}, spans

    def run(self, prompts: Sequence[Prompt], strategy: Strategy | None, side: Side = "left") -> _Outcome:
        """One pass of the prompts; `strategy` None is the full model."""
        given, spans = self.inputs(prompts, side)
        mask = given["attention_mask"]
        places = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
        if strategy is None:
            logits = self.model(**given, position_ids=places).logits
            return _Outcome(_last(logits, mask), [], None)
        with strategy.apply(self.model, spans=spans, encoder=encoder_of(prompts)) as trace:
            trace.keep_assignment = True
            logits = self.model(**given, position_ids=places).logits
        return _Outcome(_last(logits, mask), list(trace.layers), trace.assignment)

    @property
    def every(self) -> int | None:
        """How many tokens are decoded before keys go again."""
        evicting = self.strategy if self.strategy.then is None else self.strategy.then
        return evicting.every

    @property
    def steps(self) -> int:
        """Tokens to generate: enough for keys to go twice again."""
        return STEPS if self.every is None else min(2 * self.every + 2, MOST_STEPS)

    def generate(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Trace]:
        """Tokens that follow, [B, steps], greedily, and the trace."""
        given, spans = self.inputs(prompts)
        with self.strategy.apply(self.model, spans=spans, encoder=encoder_of(prompts)) as trace:
            tokens: Tensor = self.model.generate(
                **given, max_new_tokens=self.steps, min_new_tokens=self.steps, do_sample=False, num_beams=1
            )
        return tokens[:, -self.steps :], trace


def _last(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits of each prompt's last token; a shortened sequence is padded on the left."""
    if logits.shape[1] < mask.shape[1]:
        return logits[:, -1]
    ends = (mask * torch.arange(mask.shape[1])).amax(1)
    return logits[torch.arange(len(mask)), ends]


def _check_repeats(lab: _Lab) -> None:
    subject = lab.subject.when("a padded batch of prompts, twice, under two states of torch's generators")
    outcomes = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            outcomes.append(
                subject.call("logits (num_layers= makes the decoder deeper)", lab.run, PROMPTS, lab.strategy)
            )
    first, again = outcomes
    same = torch.equal(first.logits, again.logits) and first.layers == again.layers
    subject.expect(same, f"other logits: {difference(first.logits, again.logits)}", "the same every time")


def _check_company(lab: _Lab) -> None:
    """A prompt gets in a batch what it gets alone."""
    alone = [lab.run((prompt,), lab.strategy) for prompt in PROMPTS]
    for side in SIDES:
        together = lab.run(PROMPTS, lab.strategy, side)
        for row, (prompt, one) in enumerate(zip(PROMPTS, alone, strict=True)):
            subject = lab.subject.when(f"{_words(prompt)}, alone and in a batch padded on the {side}")
            ours, theirs = one.logits[0].double(), together.logits[row].double()
            gap = float((ours - theirs).norm() / ours.norm())
            subject.expect(gap <= CLOSE, f"logits {gap:.2g} apart (relative)", f"at most {CLOSE}")
            for single, whole in zip(one.layers, together.layers, strict=False):
                counts = (single.audio_tokens, whole.audio_tokens_per_sample[row])
                subject.expect(
                    counts[0] == counts[1],
                    f"{counts[0]} and {counts[1]} audio tokens leave layer {single.layer}",
                    "equally many",
                )
    tokens, _ = lab.generate(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        said, again = lab.generate((prompt,))[0][0].tolist(), tokens[row].tolist()
        subject = lab.subject.when(f"{_words(prompt)}, {lab.steps} tokens generated, alone and in a batch")
        subject.expect(said == again, f"{said} and {again}", "the same tokens")


def _check_growth(lab: _Lab) -> None:
    """A cache that evicts again holds what the budget says of prompt and answer, whenever keys have gone."""
    evicting = lab.strategy if lab.strategy.then is None else lab.strategy.then
    fed = lab.steps - 1  # the last token is not read any more
    if lab.every is None or fed < lab.every:
        return
    shape = DecoderShape.of(adapter_for(lab.model).decoder(lab.model).config)
    prompt = PROMPTS[0]
    _, trace = lab.generate((prompt,))
    fixed = sum(prompt.text) if evicting.evicts == "audio" else 0
    seen: list[tuple[int, ...]] = [(layer.tokens_in_per_sample[0] - fixed,) for layer in trace.layers]
    grown = fed // lab.every * lab.every
    goal, met = held_after(evicting, lambda: shape, seen, (0,), (len(prompt),), (grown,))
    start = evicting.layers.start_layer(len(seen))
    subject = lab.subject.when(f"{_words(prompt)}, {lab.steps} tokens generated, counted in each layer's cache")
    for layer, (held, (asked,)) in enumerate(zip(trace.held, goal, strict=True)):
        rest = fed - grown if evicting.evicts == "any" else fed
        expected = asked + fixed + rest
        close = not met or layer < start or abs(held[0] - expected) <= 1
        subject.expect(close, f"{held[0]} keys in layer {layer}", f"{expected}, as the budget has it")


def _check_counts(lab: _Lab) -> None:
    """As many tokens go as the budget says, and the counts reported are those of the tokens."""
    decoder = adapter_for(lab.model).decoder(lab.model)
    shape = DecoderShape.of(decoder.config)
    outcome = lab.run(PROMPTS, lab.strategy)
    for row, prompt in enumerate(PROMPTS):
        if not prompt.clips:
            continue
        subject = lab.subject.when(f"{_words(prompt)}, counted after each layer")
        solved = lab.strategy.solve(shape, sum(prompt.text), prompt.clips, nearest=True)
        planned = [sum(counts) for counts in zip(*solved.survivors, strict=True)]
        last = outcome.layers[-1]
        if lab.strategy.site == "cache":
            fixed = sum(prompt.text) if lab.strategy.evicts == "audio" else 0
            kept = [layer.kv_length_per_sample[row] - fixed for layer in outcome.layers]
        else:
            kept = [layer.audio_tokens_per_sample[row] for layer in outcome.layers]
        if lab.strategy.merger.is_exact():
            what = "audio tokens" if lab.strategy.evicts == "audio" else "keys"
            subject.expect(kept == planned, f"{what} {kept}", f"{planned}, as the budget has it")
        whole = sum(prompt.clips) if lab.strategy.evicts == "audio" else len(prompt)
        subject.expect(kept[-1] < whole, "no token removed", "a shorter sequence")
        if outcome.assignment is not None:
            width = len(outcome.assignment[row])
            where = outcome.assignment[row, width - len(prompt) :]
            places = where[torch.tensor(prompt.span_ids()) > 0]
            found = len(places[places >= 0].unique())
            told = last.audio_tokens_per_sample[row]
            subject.expect(found == told, f"the audio went to {found} places, {told} are reported", "equally many")


def _check_seed(lab: _Lab) -> None:
    first, other = (lab.run(PROMPTS, lab.strategy.replace(seed=seed)) for seed in (0, 1))
    same = torch.equal(first.logits, other.logits)
    subject = lab.subject.when("a batch of prompts with the seeds 0 and 1")
    if not lab.strategy.seeded:
        subject.expect(same, difference(first.logits, other.logits), "the same logits: no component says seeded = True")
    elif lab.strategy.site != "cache":  # what leaves the cache shows only in later tokens
        subject.expect(not same, "the same logits", "others, since a component says seeded = True")


def _check_model_is_left_alone(lab: _Lab, plain: _Outcome) -> None:
    subject = lab.subject.when("the full model, before the strategy was applied and afterwards")
    expected = "the same bits"
    after = lab.run(PROMPTS, None)
    subject.expect(torch.equal(plain.logits, after.logits), difference(plain.logits, after.logits), expected)
    given, spans = lab.inputs(PROMPTS)
    try:
        with lab.strategy.apply(lab.model, spans=spans, encoder=encoder_of(PROMPTS)):
            lab.model(**given)
            raise _Interrupted
    except _Interrupted:
        pass
    after = lab.run(PROMPTS, None)
    subject = lab.subject.when("the full model, before and after an exception under the strategy")
    subject.expect(torch.equal(plain.logits, after.logits), difference(plain.logits, after.logits), expected)


class _Interrupted(Exception):
    """Raised on purpose."""


def _words(prompt: Prompt) -> str:
    sound = " and ".join(map(str, prompt.clips)) or "no"
    return f"a prompt of {sum(prompt.text)} text and {sound} audio tokens"
