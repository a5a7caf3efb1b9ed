"""A speech language model that answers about recordings: text from audio in three lines."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastadasp.contracts.task import Example
from fastadasp.counts.shape import DecoderShape
from fastadasp.display import html_table
from fastadasp.errors import DataError, FastAdaSPError, RunError, StrategyError
from fastadasp.inference.clips import ReadyClip, encode, long_enough
from fastadasp.inference.load import LoadedModel, load_model
from fastadasp.inference.runner import Outcome, check_reach, run_cell
from fastadasp.models.lookup import adapter_for
from fastadasp.samples import Samples, recording_of
from fastadasp.strategy import Strategy, load_strategy
from fastadasp.transcribe.windows import Window, whole, windows

TRANSCRIBE = "Transcribe the speech into text."
"""What a model is asked for unless something else is."""
TOKENS_A_SECOND = 12
"""New tokens allowed for each second of a window; fast speech has about 6 in common vocabularies."""

Recording = Any
"""One of `fastadasp.samples.FORMS`."""


@dataclass(frozen=True)
class Segment:
    """The text of one window, from `start` to `end` seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """The text of one recording, and what was removed on the way.

    Attributes:
        audio: where it came from; None for samples in memory.
        audio_tokens, audio_tokens_left: over all windows, before the decoder and after its last layer.
        flops, flops_full: of the decoder's prefills, with the strategy and without.

    Example::

        >>> heard = fastadasp.load_speech_model().transcribe(recording, strategy="uniform", budget=0.5)
        >>> heard.audio_tokens_left < heard.audio_tokens
        True
    """

    audio: Path | None
    segments: tuple[Segment, ...] = ()
    audio_tokens: int = 0
    audio_tokens_left: int = 0
    flops: int = 0
    flops_full: int = 0

    @property
    def text(self) -> str:
        """The segments' text, joined by spaces."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self.segments[-1].end if self.segments else 0.0

    def _repr_html_(self) -> str:
        """What a notebook shows: the text by time, and what was removed."""
        rows = [(f"{segment.start:.1f} to {segment.end:.1f} s", segment.text) for segment in self.segments]
        name = "the recording in memory" if self.audio is None else self.audio.name
        gone = self.audio_tokens - self.audio_tokens_left
        left = f", {gone} of {self.audio_tokens} audio tokens removed" if gone else ""
        return html_table(f"{name}, {self.seconds:.1f} s{left}", ("time", "text"), rows)


@dataclass
class _Pending:
    """One recording while its windows are answered."""

    audio: Path | None
    segments: list[Segment] = field(default_factory=list)
    waiting: int = 0
    read: bool = False
    fault: FastAdaSPError | None = None
    tokens: int = 0
    left: int = 0
    flops: int = 0
    full: int = 0

    def transcript(self) -> Transcript:
        segments = tuple(sorted(self.segments, key=lambda segment: segment.start))
        return Transcript(self.audio, segments, self.tokens, self.left, self.flops, self.full)


class SpeechModel:
    """A loaded model, asked about recordings. Make one with `load_speech_model`.

    Example::

        >>> speech = fastadasp.load_speech_model()
        >>> speech.transcribe(recording, strategy="weighted", budget=0.5).text == ""
        False
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._shape = DecoderShape.of(adapter_for(loaded.model).decoder(loaded.model).config)

    def transcribe(
        self,
        audio: Recording,
        strategy: str | Path | Strategy | None = None,
        budget: Any = None,
        *,
        prompt: str = TRANSCRIBE,
        sampling_rate: int | None = None,
        window: float | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = 8,
    ) -> Transcript:
        """The text of one recording.

        Args:
            audio: a file that soundfile reads (WAV, FLAC, MP3, Ogg...), or samples in memory: an array or tensor
                [samples], [samples, channels] or [channels, samples], a list of floats, (array, rate), the dictionary
                of a Hugging Face dataset, or an open file. Integers are scaled by their type.
            strategy: a name, a TOML file or a `Strategy`; None for the full model.
            budget: how much to remove, as `load_strategy` takes it: 0.5, "flops=0.3"; None for the recipe's own.
            prompt: what the model is asked; its own chat template wraps it.
            sampling_rate: Hz of samples in memory; None for what they say themselves, else the model's own.
            window: seconds that are answered at a time, at most the model's own; longer recordings are cut at silence.
            max_new_tokens: for each window; None for `TOKENS_A_SECOND` times its length, at least 32.

        Raises:
            DataError: a recording that cannot be used.
            StrategyError: no such strategy, or a budget that a window cannot meet.
            RunError: an argument out of range.
        """
        recording = recording_of(audio, sampling_rate)
        settings = self._settings(strategy, budget, prompt, window, max_new_tokens, batch_size)
        if note := self.loaded.knows.unknown([prompt]):
            warnings.warn(note, stacklevel=2)
        for answer in self._answers([recording], settings):
            if isinstance(answer, FastAdaSPError):
                raise answer
            return answer
        raise DataError("no recording was given")

    def ask(self, audio: Recording, question: str, strategy: Any = None, budget: Any = None, **options: Any) -> str:
        """The answer to a question about one recording that fits into one window; `options` as for `transcribe`.

        Raises:
            DataError: also for a recording that is longer than the model hears at once.
        """
        answer = self.transcribe(audio, strategy, budget, prompt=question, **options)
        if len(answer.segments) > 1:
            raise DataError(
                f"the recording lasts {answer.seconds:.1f} s, which is more than this model hears at once; ask about a "
                "part of it, or transcribe it"
            )
        return answer.text

    def transcribe_files(
        self,
        paths: Sequence[Path],
        strategy: str | Path | Strategy | None = None,
        budget: Any = None,
        *,
        prompt: str = TRANSCRIBE,
        window: float | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = 8,
        progress: Callable[[float], None] | None = None,
    ) -> Iterator[Transcript | FastAdaSPError]:
        """Each file's transcript, or why there is none, in the files' order; windows of several files share batches.

        Args:
            progress: called with seconds of audio that were answered, after each batch.

        Raises:
            StrategyError, RunError: as `transcribe`, before anything runs.
        """
        settings = self._settings(strategy, budget, prompt, window, max_new_tokens, batch_size)
        return self._answers([Path(path) for path in paths], settings, progress)

    def _settings(
        self,
        strategy: str | Path | Strategy | None,
        budget: Any,
        prompt: str,
        window: float | None,
        max_new_tokens: int | None,
        batch_size: int,
    ) -> _Settings:
        longest = self.loaded.longest_clip
        if window is not None and not 1 <= window <= (longest or window):
            allowed = "at least 1 second" if longest is None else f"1 to {longest:g} seconds for this model"
            raise RunError(f"window {window:g}: {allowed}")
        if batch_size < 1 or (max_new_tokens is not None and max_new_tokens < 1):
            raise RunError("batch size and new tokens are at least 1")
        if strategy is None and budget is not None:
            raise RunError(f"a budget ({budget}) needs a strategy to spend it")
        changes = {} if budget is None else {"budget": budget}
        recipe = strategy.replace(**changes) if isinstance(strategy, Strategy) else None
        if strategy is not None and recipe is None:
            recipe = load_strategy(strategy, **changes)
        return _Settings(recipe, prompt, window or longest, max_new_tokens, batch_size)

    def _answers(
        self,
        recordings: Sequence[Path | Samples],
        settings: _Settings,
        progress: Callable[[float], None] | None = None,
    ) -> Iterator[Transcript | FastAdaSPError]:
        held: list[tuple[_Pending, Window]] = []
        order: list[_Pending] = []
        for recording in recordings:
            pending = _Pending(None if isinstance(recording, Samples) else recording)
            order.append(pending)
            try:
                for window in self._windows(recording, settings.window):
                    held.append((pending, window))
                    pending.waiting += 1
                    if len(held) == settings.batch_size:
                        self._answer(held, settings, progress)
                        held = []
                        yield from _finished(order)
            except DataError as fault:
                pending.fault = fault
            pending.read = True
        if held:
            self._answer(held, settings, progress)
        yield from _finished(order)

    def _windows(self, recording: Path | Samples, longest: float | None) -> Iterator[Window]:
        wanted = self.loaded.sampling_rate
        if isinstance(recording, Samples):
            return whole(recording.wave, recording.rate or wanted, wanted, longest)
        return windows(recording, wanted, longest)

    def _answer(
        self, held: Sequence[tuple[_Pending, Window]], settings: _Settings, progress: Callable[[float], None] | None
    ) -> None:
        able: list[tuple[_Pending, Window]] = []
        clips: list[ReadyClip] = []
        for clip, (pending, window) in zip(self._encode(held, settings.prompt), held, strict=True):
            pending.waiting -= 1
            try:
                if isinstance(clip, DataError):
                    raise clip
                if settings.strategy is not None:
                    check_reach(settings.strategy, self._shape, [clip])
            except StrategyError as fault:
                pending.fault = _named(pending, fault)
            except DataError as fault:
                pending.fault = fault
            else:
                able.append((pending, window))
                clips.append(clip)
        lengths = [window.end - window.start for _, window in able]
        tokens = [settings.max_new_tokens or max(32, int(TOKENS_A_SECOND * seconds)) for seconds in lengths]
        try:
            outcome = self._run(clips, settings, tokens) if clips else None
        except StrategyError as fault:  # a budget that these windows cannot meet together
            for pending, _ in able:
                pending.fault = _named(pending, fault)
            outcome = None
        if outcome is not None:
            for text, cost, (pending, window) in zip(outcome.predictions, outcome.costs, able, strict=True):
                pending.segments.append(Segment(round(window.start, 3), round(window.end, 3), text))
                pending.tokens += cost.audio_tokens
                pending.left += cost.audio_tokens_left
                pending.flops += cost.flops
                pending.full += cost.flops_full
        if progress is not None:
            progress(sum(window.end - window.start for _, window in held))

    def _encode(self, held: Sequence[tuple[_Pending, Window]], prompt: str) -> list[ReadyClip | DataError]:
        """Each window's clip; where one cannot be had, they are made one by one to see which."""
        rate = self.loaded.sampling_rate
        examples = [
            Example(f"{window.start:.1f} to {window.end:.1f} s", pending.audio or Path("samples"), prompt, "")
            for pending, window in held
        ]
        try:
            return [*encode(self.loaded, examples, [long_enough(window.wave, rate) for _, window in held])]
        except DataError as fault:
            return [fault] if len(held) == 1 else [self._encode([one], prompt)[0] for one in held]

    def _run(self, clips: Sequence[ReadyClip], settings: _Settings, tokens: Sequence[int]) -> Outcome:
        return run_cell(
            self.loaded,
            settings.strategy,
            clips,
            max_new_tokens=tokens,
            batch_size=len(clips),
            progress=lambda done: None,
        )


@dataclass(frozen=True)
class _Settings:
    strategy: Strategy | None
    prompt: str
    window: float | None
    max_new_tokens: int | None
    batch_size: int


def _named(pending: _Pending, fault: StrategyError) -> StrategyError:
    return StrategyError(f"{pending.audio or 'the recording'}: {fault}")


def _finished(order: list[_Pending]) -> Iterator[Transcript | FastAdaSPError]:
    """Takes recordings that are done from the front, so that they come out in order."""
    while order and order[0].read and not order[0].waiting:
        pending = order.pop(0)
        yield pending.transcript() if pending.fault is None else pending.fault


def load_speech_model(path: str | Path | None = None, device: str = "auto", dtype: str = "auto") -> SpeechModel:
    """A model to ask about recordings: from a local folder or by hub id; None for the embedded one.

    Raises:
        ModelError: it cannot be found or read, or its family is not supported.
        RunError: device or dtype cannot be had.

    Example::

        >>> speech = fastadasp.load_speech_model()
        >>> text = speech.transcribe(recording).text
    """
    if path is None:
        from fastadasp.demo import model_path

        path = model_path()
    return SpeechModel(load_model(str(path), device, dtype))
