"""A submission: one run as one JSON file, with what decides whether its figures may be compared."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fastadasp.errors import RunError
from fastadasp.experiments.records import TaskFacts, Worst
from fastadasp.files import parse_json, read_text
from fastadasp.runs import LoadedRun

VERSION: Literal[1] = 1
LARGEST = 50_000_000
"""Most bytes of a submission."""
LONGEST = 200
"""Most characters of a name."""
MOST = 1e6
"""Largest score and longest time that a page shows."""


class Part(BaseModel):
    """One JSON object of a submission."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(Part):
    """The model of a submission."""

    name: str = Field(min_length=1, max_length=LONGEST, description="hub id, or name of the folder")
    hash: str | None = Field(description="SHA-256 over the weights, or a hub's commit; null if not known")
    dtype: str = Field(description="number format")


class Machine(Part):
    """Where times were taken."""

    device: str = Field(description="`cpu` or `cuda`")
    name: str = Field(max_length=LONGEST, description="name of the processor or GPU")
    threads: int = Field(description="CPU threads of torch")
    batch_size: int | None = Field(description="clips in a batch")


class Code(Part):
    """What computed the figures."""

    hash: str | None = Field(description="SHA-256 over the sources of fastadasp that a cell runs through")
    git: str | None = Field(description="commit of the checkout; null outside one")
    versions: dict[str, str] = Field(description="versions of python, fastadasp, torch, transformers and more")
    origins: dict[str, str] = Field(description="distribution, version and module of each recipe's components")


class Asked(Part):
    """A task of a submission."""

    name: str = Field(max_length=LONGEST, description="the task's name")
    clips: int = Field(ge=1, description="number of clips")
    facts: TaskFacts = Field(description="what decides whether figures may be compared; as in results-format.md")
    prompt: str = Field(description="the whole prompt of the first clip, with the model's chat template")


class Row(Part):
    """One strategy at one budget on one task."""

    task: str = Field(description="name of the task")
    strategy: str = Field(max_length=LONGEST, description="name of the strategy; `full` for the model without any")
    recipe: dict[str, Any] | None = Field(
        description="its content, before the budget and what a study changed; null for the full model"
    )
    budget: str = Field(max_length=LONGEST, description="fraction removed, with its kind; `-` for the full model")
    seeds: list[int] = Field(min_length=1, description="seeds of the cells that finished")
    value: float = Field(description="the headline metric, mean over seeds")
    interval: tuple[float, float] | None = Field(
        description="95 % bootstrap interval over the clips; null if not known"
    )
    metrics: dict[str, float] = Field(description="every metric, mean over seeds")
    audio_tokens_removed: float = Field(ge=0, le=1, description="fraction of the audio tokens removed")
    flops: float = Field(gt=0, le=1e24, description="FLOPs of the decoder's prefill, mean of a clip")
    flops_removed: float = Field(le=1, description="fraction of those FLOPs removed")
    flops_removed_with_encoder: float | None = Field(
        description="the same with the encoder's FLOPs; null if not counted"
    )
    threshold: float | None = Field(
        default=None, description="threshold that meets a budget of all clips together; null for other budgets"
    )
    removed_deviation: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="standard deviation over the clips of the fraction that each lost of its audio tokens",
    )
    removed_least: float | None = Field(default=None, ge=0, le=1, description="the least such fraction of a clip")
    removed_most: float | None = Field(default=None, ge=0, le=1, description="the largest such fraction of a clip")
    worst: list[Worst] = Field(
        default_factory=list,
        description="of each seed the clip with the worst metric by itself: its `id`, `value`, and the fraction "
        "`removed` of its audio",
    )
    kv_bytes: float = Field(gt=0, le=1e18, description="bytes of keys and values after the prompt, mean of a clip")
    kv_removed: float = Field(le=1, description="fraction of those bytes removed")
    prefill_seconds: float | None = Field(
        description="time of the decoder's prefill, median of a batch; null if not told"
    )
    decode_seconds: float | None = Field(description="time of all steps after it, median of a batch; null if not told")

    @model_validator(mode="after")
    def _sensible(self) -> Row:
        fields = (getattr(self, name) for name in type(self).model_fields)
        numbers = [one for one in fields if isinstance(one, float)] + [*(self.interval or ()), *self.metrics.values()]
        numbers += [number for one in self.worst for number in (one.value, one.removed)]
        where = f"{self.strategy} at {self.budget} on {self.task}"
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"{where}: a figure is not finite")
        if any(abs(score) > MOST for score in (self.value, *(self.interval or ()))):
            raise ValueError(f"{where}: a score is beyond {MOST:g}")
        if any(time is not None and not 0 <= time <= MOST for time in (self.prefill_seconds, self.decode_seconds)):
            raise ValueError(f"{where}: a time is not between 0 and {MOST:g} s")
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise ValueError(f"{where}: the interval ends before it begins")
        return self


class Submission(Part):
    """One run."""

    kind: Literal["fastadasp-submission"] = Field(default="fastadasp-submission", description="what the file is")
    version: Literal[1] = Field(default=1, description="version of these keys")
    started: str = Field(description="start of the run, ISO 8601, UTC")
    model: Model = Field(description="the model")
    machine: Machine = Field(description="where times were taken")
    code: Code = Field(description="what computed the figures")
    tasks: list[Asked] = Field(min_length=1, description="the tasks")
    rows: list[Row] = Field(min_length=1, description="the results")
    failed: list[str] = Field(description="strategies, budgets and tasks that failed, with the reason")
    checksum: str = Field(default="", description="SHA-256 over everything else, which shows later changes")

    @model_validator(mode="after")
    def _whole(self) -> Submission:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("a task stands twice in `tasks`")
        lost = sorted({row.task for row in self.rows} - set(names))
        if lost:
            raise ValueError(f"rows are of task {lost[0]!r}, which `tasks` lacks")
        keys = [(row.task, row.strategy, row.budget) for row in self.rows]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice[1]} at {twice[2]} on {twice[0]} stands twice in `rows`")
        for row in self.rows:
            metric = next(task.facts.metric for task in self.tasks if task.name == row.task)
            if not math.isclose(row.metrics.get(metric, math.nan), row.value, rel_tol=1e-6, abs_tol=1e-6):
                raise ValueError(f"{row.strategy} at {row.budget} on {row.task}: value is not {metric} of its metrics")
        return self

    def sum(self) -> str:
        """What `checksum` has to be."""
        return _sum(self.model_dump(mode="json"))


def _sum(content: Mapping[str, Any]) -> str:
    """The checksum of a file's content as it stands there, so that keys that came later change no older file's."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def submission_of(run: LoadedRun, name: str | None = None, *, times: bool = True) -> Submission:
    """A run as a submission.

    Args:
        name: what the model is called; None for its hub id, or the last part of its folder.
        times: whether prefill and decoding times are taken over.

    Raises:
        RunError: it is an older run without what makes figures comparable, still running, or does not fit the schema.
    """
    about = run.source.about
    if not about.facts:
        raise RunError(
            f"{run.folder} was written by an earlier version, which did not record hashes of its clips and questions; "
            "run the comparison again"
        )
    if about.status == "running":
        raise RunError(f"{run.folder} is still running, or was killed; submit a run that has ended")
    for task in dict.fromkeys([*about.tasks, *(line.task for line in run.lines)]):
        if task not in about.tasks or task not in about.facts or task not in about.prompts:
            raise RunError(f"{run.folder} is damaged: run.json does not tell all of task {task!r}")
    rows, failed = list[dict[str, Any]](), list[str]()
    for line in run.lines:
        failed += [f"{line.name} at {line.budget} on {line.task}: {error}" for error in line.errors]
        done = [cell for cell in line.cells if cell.error is None]
        if not done:
            continue
        every = [key for key in done[0].metrics if all(key in cell.metrics for cell in done)]
        metrics = {key: sum(cell.metrics[key] for cell in done) / len(done) for key in every}
        costs = (
            "audio_tokens_removed",
            "flops",
            "flops_removed",
            "flops_removed_with_encoder",
            "threshold",
            "removed_deviation",
            "removed_least",
            "removed_most",
            "kv_bytes",
            "kv_removed",
        )
        known: dict[str, Any] = {cost: line.cost(cost) for cost in costs}  # what is missing is told by `Row`
        rows.append(
            {
                "task": line.task,
                "strategy": line.name,
                "recipe": about.strategies.get(line.strategy),
                "budget": line.budget,
                "seeds": [cell.seed for cell in done],
                "value": metrics.get(about.facts[line.task].metric),
                "interval": line.interval,
                "metrics": metrics,
                **known,
                "worst": [cell.worst for cell in done if cell.worst is not None],
                "prefill_seconds": line.prefill_seconds if times else None,
                "decode_seconds": line.decode_seconds if times else None,
            }
        )
    local = Path(about.model).name if Path(about.model).is_dir() else about.model
    machine = {"device": about.device, "name": about.device_name, "threads": about.threads}
    content = {
        "started": about.started,
        "model": {"name": local if name is None else name, "hash": about.model_hash, "dtype": about.dtype},
        "machine": machine | {"batch_size": about.batch_size or about.arguments.get("batch_size")},
        "code": {"hash": about.code, "git": about.git, "versions": about.versions, "origins": about.origins},
        "tasks": [
            {"name": task, "clips": clips, "facts": about.facts[task], "prompt": about.prompts[task]}
            for task, clips in about.tasks.items()
        ],
        "rows": rows,
        "failed": failed,
    }
    made = _checked(content, f"{run.folder} cannot be submitted")
    return made.model_copy(update={"checksum": made.sum()})


def read_submission(path: Path) -> Submission:
    """A submission from its file, checked.

    Raises:
        RunError: it cannot be read, is none, or was changed after it was written.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise RunError(
                f"{path} has {path.stat().st_size / 1e6:.0f} MB; a submission has at most {LARGEST / 1e6:.0f} MB"
            )
        content = parse_json(read_text(path))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RunError(f"{path} is no submission: {error}") from None
    if not isinstance(content, dict) or content.get("kind") != "fastadasp-submission":
        raise RunError(f"{path} is no submission; fastadasp submit writes one from a run's folder")
    if content.get("version") != VERSION:
        raise RunError(f"{path} has version {content.get('version')!r}; this fastadasp reads version {VERSION}")
    found = _checked(content, f"{path} does not fit its schema")
    if found.checksum != _sum(content):
        raise RunError(f"{path} was changed after it was written: its checksum is not that of its content")
    return found


def _checked(content: Mapping[str, Any], otherwise: str) -> Submission:
    """A submission of this content. Raises RunError, which begins with `otherwise`."""
    try:
        return Submission.model_validate(content)
    except ValidationError as error:
        raise RunError(f"{otherwise}:" + "".join(f"\n  - {one}" for one in _faults(error))) from None


def _faults(error: ValidationError, most: int = 8) -> Sequence[str]:
    """What does not fit, a sentence each."""
    found = []
    for one in error.errors()[:most]:
        place = ".".join(str(part) for part in one["loc"]) or "the whole"
        found.append(f"{place}: {one['msg'].removeprefix('Value error, ')}")
    more = error.error_count() - most
    return [*found, f"and {more} more"] if more > 0 else found
