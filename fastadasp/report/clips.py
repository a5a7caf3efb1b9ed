"""The clips of a report: where answers differ from the full model's, with the sound to listen to."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from fastadasp.audio import read_audio, resample
from fastadasp.contracts.task import Example
from fastadasp.errors import DataError, FastAdaSPError
from fastadasp.experiments.axes import FULL, asked, most_clips
from fastadasp.experiments.records import Prediction
from fastadasp.report.lines import Line, known_tasks
from fastadasp.report.source import Source, key
from fastadasp.tasks.normalisers import basic

RATE = 16_000
"""Samples a second of the sound on the page."""


@dataclass
class Clip:
    """One clip of one task.

    Attributes:
        answers: the model's answer under each line (its first seed), by the line's number in the report.
        differ: how many of them are not the full model's, after normalising.
        example: the task's own example; None where task or clips are not to be had any more.
        sound: its recording as a data URI; None without one, for the reason `missing`.
    """

    run: int
    task: str
    id: str
    audio: str
    reference: str
    answers: dict[int, str] = field(default_factory=dict)
    differ: int = 0
    example: Example | None = None
    wave: NDArray[np.float32] | None = None
    sound: str | None = None
    missing: str = ""

    @property
    def seconds(self) -> float | None:
        """How long the recording is."""
        return None if self.wave is None else len(self.wave) / RATE


def clips_of(
    source: Source, run: int, lines: Sequence[Line], most: int, progress: Callable[[], None] = lambda: None
) -> list[Clip]:
    """Of each task the `most` clips on which most lines differ from the full model.

    Args:
        lines: all lines of the report; clips refer to them by number.
    """
    out: list[Clip] = []
    examples, faults = _examples(source) if most else ({}, {})
    for task in dict.fromkeys(cell.task for cell in source.cells):
        found: dict[str, Clip] = {}
        for number, line in enumerate(lines):
            if line.run != run or line.task != task:
                continue
            done = next((cell for cell in line.cells if cell.error is None), None)
            for answer in source.predictions.get(key(done), []) if done is not None else []:
                clip = found.setdefault(answer.id, _clip(run, answer))
                clip.answers[number] = answer.prediction
        full = next((n for n, x in enumerate(lines) if x.run == run and x.task == task and x.strategy == FULL), None)
        for clip in found.values():
            own = basic(clip.answers.get(full, "")) if full is not None else ""
            clip.differ = sum(basic(answer) != own for answer in clip.answers.values())
        chosen = sorted(found.values(), key=lambda clip: -clip.differ)[:most]
        for clip in chosen:
            clip.example = examples.get((task, clip.id))
            _listen(clip, faults.get(task))
            progress()
        out += chosen
    return out


def _clip(run: int, answer: Prediction) -> Clip:
    return Clip(run, answer.task, answer.id, answer.audio, answer.reference)


def _examples(source: Source) -> tuple[dict[tuple[str, str], Example], dict[str, str]]:
    """The clips of the run's tasks as the run asked them, by task and id, and why those of a task are not to be had."""
    out: dict[tuple[str, str], Example] = {}
    faults: dict[str, str] = {}
    for name, task in known_tasks(source).items():
        try:
            here = asked(task, *(source.asked(argument) for argument in ("model", "prompt", "part")))
            # Rows that cannot be used are no matter of those that were, and a run of a few clips needs no others.
            out |= {(name, example.id): example for example in here.read(most_clips(here, source.limit)).examples}
        except FastAdaSPError as error:
            faults[name] = str(error)
    return out, faults


def _listen(clip: Clip, fault: str | None) -> None:
    """Finds and packs the recording of a clip.

    Args:
        fault: why no clip of the task is to be had.
    """
    if clip.example is None or clip.example.audio.name != clip.audio:
        clip.missing = fault or "the recording cannot be found from here"
        return
    try:
        clip.wave = read_audio(clip.example.audio, RATE)
    except DataError as error:
        clip.missing = str(error)
        return
    clip.sound = pack(clip.wave)


def pack(wave: NDArray[np.float32], rate: int = RATE) -> str:
    """Sound [samples] at `rate` Hz as Ogg Opus in a data URI; about 3 kB a second. WAV where Opus is not to be had."""
    out = io.BytesIO()
    sound = np.clip(wave if rate == RATE else resample(wave, rate, RATE), -1, 1)
    try:
        soundfile.write(out, sound, RATE, format="OGG", subtype="OPUS")
        kind = "audio/ogg"
    except (soundfile.SoundFileError, ValueError):  # an old libsndfile
        out = io.BytesIO()
        soundfile.write(out, sound, RATE, format="WAV", subtype="PCM_16")
        kind = "audio/wav"
    return f"data:{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def plain(clip: Clip) -> dict[str, Any]:
    """A clip for the page's script."""
    return {
        "run": clip.run,
        "task": clip.task,
        "id": clip.id,
        "audio": clip.audio,
        "question": clip.example.instruction if clip.example else None,
        "reference": clip.reference,
        "answers": clip.answers,
        "differ": clip.differ,
        "sound": clip.sound,
        "missing": clip.missing,
        "seconds": clip.seconds,
    }
