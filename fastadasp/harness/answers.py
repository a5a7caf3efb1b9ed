"""Answers to a harness's questions about recordings: encoded, batched and generated as in `fastadasp compare`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fastadasp.errors import RunError, StrategyError
from fastadasp.files import cache_folder

if TYPE_CHECKING:
    from fastadasp.inference.load import LoadedModel
    from fastadasp.strategy import Strategy

GREEDY = {"do_sample": (False, None), "num_beams": (1, None), "temperature": (0, 0.0, None), "top_p": (1, 1.0, None)}
"""What settings of a generation may be: answers are greedy."""


@dataclass(frozen=True)
class Question:
    """One request of a harness.

    Attributes:
        text: what is asked, without signs for the audio and without a chat template.
        recording: in any form that `fastadasp.samples` knows.
        max_new_tokens: most new tokens of the answer.
        until: texts that end an answer; they are not part of it.
    """

    text: str
    recording: Any
    max_new_tokens: int
    until: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answering:
    """A model, and the strategy that it answers under; None for the full model."""

    loaded: LoadedModel
    strategy: Strategy | None
    batch_size: int

    @classmethod
    def load(
        cls,
        pretrained: str,
        strategy: str | None = None,
        budget: str | float | None = None,
        *,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str | None = None,
        seed: int = 0,
    ) -> Answering:
        """Loads the model and reads the recipe.

        Args:
            pretrained: model folder or hub id.
            strategy: name or TOML file; None for the full model.
            budget: as for ``load_strategy``: 0.5, "flops=0.3"; None for the recipe's own.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:0``; None for ``auto``.

        Raises:
            FastAdaSPError: one of them is wrong.
        """
        from fastadasp.inference.load import load_model
        from fastadasp.strategy import load_strategy

        try:
            size = 12 if batch_size is None else int(batch_size)
        except ValueError:
            raise RunError(f"batch_size is a number of clips, at least 1, not {batch_size!r}") from None
        if size < 1:
            raise RunError(f"batch_size is a number of clips, at least 1, not {batch_size!r}")
        if strategy is None and budget is not None:
            raise RunError(f"a budget ({budget}) needs a strategy to spend it")
        recipe = None
        if strategy is not None:
            recipe = load_strategy(strategy, seed=seed, **({} if budget is None else {"budget": budget}))
            if recipe.needs_calibration:
                raise StrategyError(
                    f"recipe {recipe.name!r} chooses its layer on calibration clips, which a harness has none of; find "
                    "the layer with fastadasp select-layer and name it in a recipe of your own"
                )
            if recipe.budget.over_run:
                raise StrategyError(
                    f"budget {recipe.budget} holds over a run, but a harness asks in batches; name the threshold that "
                    "`fastadasp compare` finds in a recipe of your own"
                )
        place = str(device or "auto")
        place = "cuda" if place == "cuda:0" else place
        if ":" in place:  # the loader takes the first GPU that it sees
            raise RunError(
                f"device is auto, cpu, cuda or cuda:0, not {place!r}; CUDA_VISIBLE_DEVICES chooses another GPU"
            )
        return cls(load_model(pretrained, place, dtype), recipe, size)

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """The answers, in the order of the questions.

        Raises:
            DataError: a recording that cannot be used.
            StrategyError: a budget that some recording cannot meet.
        """
        from fastadasp.contracts.task import Example
        from fastadasp.inference.clips import prepare
        from fastadasp.inference.runner import run_cell

        examples = [
            Example(f"question {number}", self._file(one.recording), one.text, "")
            for number, one in enumerate(questions, 1)
        ]
        ready = prepare(self.loaded, examples, self.batch_size, lambda _: None)
        answers = [""] * len(questions)
        for length in dict.fromkeys(one.max_new_tokens for one in questions):
            places = [place for place, one in enumerate(questions) if one.max_new_tokens == length]
            clips = [ready[str(examples[place].audio), examples[place].instruction] for place in places]
            done = run_cell(
                self.loaded,
                self.strategy,
                clips,
                max_new_tokens=length,
                batch_size=self.batch_size,
                progress=lambda _: None,
            )
            for place, text in zip(places, done.predictions, strict=True):
                answers[place] = _cut(text, questions[place].until)
        return answers

    def _file(self, recording: Any) -> Path:
        """A recording as a file; samples in memory are kept in the cache, named after their content."""
        import soundfile

        from fastadasp.audio import kept
        from fastadasp.samples import recording_of

        found = recording_of(recording)
        if isinstance(found, Path):
            return found
        rate = found.rate or self.loaded.sampling_rate
        name = hashlib.sha256(found.wave.tobytes() + str(rate).encode()).hexdigest()[:32]
        file = cache_folder() / "recordings" / f"{name}.wav"
        if not file.exists():
            with kept(file) as part:
                soundfile.write(part, found.wave, rate, format="WAV", subtype="FLOAT")
        return file


def check_greedy(settings: dict[str, Any]) -> None:
    """Refuses settings of a generation that ask for something else than greedy answers. Raises RunError."""
    for name, allowed in GREEDY.items():
        if settings.get("do_sample") is not True and name in ("temperature", "top_p"):
            continue  # they say nothing where nothing is drawn
        if settings.get(name) not in allowed:
            raise RunError(f"answers are greedy here; the task asks for {name}={settings[name]}")


def stops_of(settings: dict[str, Any]) -> tuple[str, ...]:
    """What ends an answer, by the settings of a generation. Raises RunError for answers that are not greedy."""
    check_greedy(settings)
    until = settings.get("until") or ()
    return (until,) if isinstance(until, str) else tuple(until)


def refuse_likelihoods() -> NoReturn:
    """Raises the RunError of a task that asks for the probability of given answers."""
    raise RunError("the model fastadasp generates answers; tasks of the type generate_until can be used")


def _cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of these."""
    ends = [place for stop in until if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
