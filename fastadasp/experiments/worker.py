"""A worker: holds the model and the clips, and runs one cell at a time. Every executor has them, in this process or
elsewhere."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from fastadasp.counts.budget import Budget
from fastadasp.errors import FastAdaSPError, RunError
from fastadasp.experiments.axes import Limit, Row, read_tasks
from fastadasp.experiments.identity import cell_hash, cell_identity, common_facts, task_facts
from fastadasp.experiments.records import Result
from fastadasp.selection.cache import Notice
from fastadasp.strategy import Strategy

if TYPE_CHECKING:
    from fastadasp.contracts.task import Example, Task
    from fastadasp.experiments.cell import Scored
    from fastadasp.experiments.starts import Starts
    from fastadasp.inference.clips import ReadyClip
    from fastadasp.inference.load import LoadedModel
    from fastadasp.inference.runner import Runner

    Clips = tuple[dict[str, Task], dict[str, list[Example]]]
    """Tasks by name, and the clips of each."""


@dataclass(frozen=True)
class Settings:
    """What workers need to know."""

    model: str
    tasks: tuple[str, ...]
    device: str = "auto"
    dtype: str = "auto"
    limit: Limit = None
    part: str | None = None
    batch_size: int | Literal["auto"] = 12
    skip_bad: bool = False
    prompt: str | None = None
    named: str | None = None
    """The model as it was named, if it was: some tasks ask its family in words of its own."""
    calibrates: bool = False
    """Whether some start layer has to be chosen."""
    listens: bool = True
    """Whether some recipe needs what the audio encoder attends to."""
    device_map: str | None = None
    """``auto`` spreads the model over the devices."""
    workers: int = 1
    """Processes of this run that may share one machine's memory."""
    gpus: float | None = None
    """GPUs of each of them."""


@dataclass(frozen=True)
class Job:
    """One cell, in plain values. `cell` is the hash that whoever ordered it expects."""

    name: str
    recipe: dict[str, Any] | None
    budget: str | None
    seed: int
    task: str
    cell: str


@dataclass
class Ready:
    """A task's clips, encoded."""

    clips: list[ReadyClip]
    starts: Starts
    encoder: float


class Worker:
    """Reads the clips and loads the model when they are first needed, unless they are given.

    Args:
        advance: is told what is being done and how many clips of it are through.
        engine: answers the clips; None for transformers.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        read: Clips | None = None,
        loaded: LoadedModel | None = None,
        notice: Notice = lambda _: None,
        advance: Callable[[str, int], None] = lambda *_: None,
        engine: Runner | None = None,
    ) -> None:
        from fastadasp.inference.runner import Transformers

        self.engine: Runner = engine or Transformers()
        self.settings, self._notice, self.advance = settings, notice, advance
        self._read, self._loaded = read, loaded
        self._ready: dict[str, Ready] = {}
        self.outline = False
        """Whether the model is loaded without its weights: for a process that gives its cells to others."""

    @cached_property
    def read(self) -> Clips:
        """The tasks and their clips. Raises FastAdaSPError."""
        given = self.settings
        return self._read or read_tasks(
            given.tasks,
            given.limit,
            part=given.part,
            skip_bad=given.skip_bad,
            notice=self._notice,
            model=given.named,
            prompt=given.prompt,
        )

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model. Raises FastAdaSPError."""
        from fastadasp.inference.load import load_model

        given = self.settings
        return self._loaded or load_model(
            given.model, given.device, given.dtype, device_map=given.device_map, outline=self.outline
        )

    @cached_property
    def batch_size(self) -> int:
        """Clips at a time: as asked for, or as memory allows. Raises FastAdaSPError."""
        given = self.settings
        if given.batch_size != "auto":
            return given.batch_size
        from fastadasp.inference.fit import find, sharers

        tasks, examples = self.read
        found = find(self.loaded, tasks, examples, sharers(given.workers, given.gpus, self.loaded.device))
        self._notice(str(found))
        return found.size

    @cached_property
    def calibration(self) -> dict[str, tuple[list[Example], str]]:
        """The clips of each task that start layers are chosen on, and what they are."""
        from fastadasp.selection.select import calibration_examples

        return {name: calibration_examples(task) for name, task in self.read[0].items()}

    @cached_property
    def notes(self) -> list[str]:
        """What a person should know before the scores are read: where the model is asked what it does not know."""
        return [note for name, clips in self.read[1].items() for note in self.loaded.knows.notes(name, clips)]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What decides the results of all cells, in plain values. Raises FastAdaSPError for what cannot be used."""
        tasks, examples = self.read
        seen = {name: found for name, (found, _) in self.calibration.items()} if self.settings.calibrates else {}
        check_lengths([example for clips in (*examples.values(), *seen.values()) for example in clips], self.loaded)
        about = {name: task_facts(task, examples[name], seen.get(name, ())) for name, task in tasks.items()}
        return {**common_facts(self.loaded, self.batch_size, self.engine), "tasks": about}

    def run(self, job: Job) -> Result:
        """Runs a cell; whatever goes wrong in it stands in the result.

        Raises:
            RunError: this worker's model, data or versions are not those that the cell was ordered with.
            FastAdaSPError: the clips or the model cannot be used, whatever the recipe.
        """
        from fastadasp.experiments.cell import Scored
        from fastadasp.inference.machine import device_name

        strategy = None if job.recipe is None else Strategy.from_dict(job.recipe)
        identity = cell_identity(strategy, job.task, self.facts)
        if cell_hash(identity) != job.cell:
            raise RunError(
                f"the worker on {platform.node()} would run another cell: its model, clips, plugins or versions differ "
                f"from those of the machine that started the study ({self.facts['versions']})"
            )
        started, clock = time.time(), time.perf_counter()
        row = Row(job.name, strategy, None if job.budget is None else Budget.of(job.budget), job.seed)
        try:
            scored = self.attempt(row, job.task)
        except FastAdaSPError:  # the clips or the model cannot be used at all, in words for people
            raise
        except Exception as fault:  # encoding the clips ran out of memory, say
            scored = Scored(error=f"{type(fault).__name__}: {fault}")
        if scored.error is not None:
            _tidy()
        return Result(
            cell=job.cell,
            identity=identity,
            **vars(scored),
            started=started,
            seconds=time.perf_counter() - clock,
            host=platform.node(),
            process=os.getpid(),
            device_name=device_name(self.loaded.device),
        )

    def attempt(self, row: Row, task: str) -> Scored:
        """Runs a row on a task; most faults stand in what comes back."""
        from fastadasp.experiments.cell import run_row

        ready = self.prepare(task)
        return run_row(
            self.loaded,
            ready.starts,
            row,
            self.read[0][task],
            self.read[1][task],
            ready.clips,
            batch_size=self.batch_size,
            encoder_flops=ready.encoder,
            progress=lambda count: self.advance(f"{task} {row.name}", count),
            engine=self.engine,
        )

    def prepare(self, name: str) -> Ready:
        """A task's clips, encoded by themselves, so that no cell depends on what else a study holds."""
        if name not in self._ready:
            from fastadasp.experiments.starts import Starts
            from fastadasp.inference.clips import encoder_flops, prepare
            from fastadasp.inference.runner import warm_up

            size, examples = self.batch_size, self.read[1][name]
            flops = encoder_flops(self.loaded, examples[0])  # first, since it warms the encoder up, whose time is taken
            ready = prepare(
                self.loaded, examples, size, lambda _: self.advance(f"encoding {name}", 0), listen=self.settings.listens
            )
            seen = {name: self.calibration[name]} if self.settings.calibrates else {}
            further = (
                prepare(self.loaded, seen[name][0], size, lambda _: None, listen=self.settings.listens) if seen else {}
            )
            starts = Starts(self.loaded, self.read[0], seen, further, self._notice)
            clips = [ready[str(example.audio), example.instruction] for example in examples]
            if not self._ready:
                warm_up(self.loaded, clips[0])
            self._ready[name] = Ready(clips, starts, flops)
        return self._ready[name]


def check_lengths(examples: Iterable[Example], loaded: LoadedModel) -> None:
    """Refuses a recording that is longer than the model can hear. Raises DataError."""
    from fastadasp.audio import check_length

    for path in {example.audio: None for example in examples}:
        check_length(path, loaded.longest_clip)


def _tidy() -> None:
    """Gives memory back after a failure, so that running out of it takes no other cell along."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
