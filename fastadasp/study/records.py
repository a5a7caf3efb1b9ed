"""Every key of a study's files. `docs/studies.md` is checked against these models."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from fastadasp.experiments.records import Efficiency, Prediction, Record

FORMAT = 1
"""Version of the store's files."""

TIMES = frozenset({"prefill_seconds", "decode_seconds"})
"""What differs from run to run; it stands in ``times.jsonl``."""


class Result(Record):
    """A finished cell as the store keeps it. What a study calls the cell is not part of it."""

    format: int = Field(default=FORMAT, description="version of these keys")
    cell: str = Field(description="the cell's hash")
    identity: dict[str, Any] = Field(description="everything that decides the result; the hash is taken over it")
    layer: int | None = Field(description="as in results-format.md")
    metrics: dict[str, float] = Field(description="as in results-format.md")
    interval: tuple[float, float] | None = Field(description="as in results-format.md")
    efficiency: Efficiency | None = Field(description="as in results-format.md")
    answers: list[str] = Field(description="the model's answers in the clips' order")
    error: str | None = Field(description="why the cell failed; null if it did not")
    started: float = Field(description="when it was started, seconds since 1970, UTC")
    seconds: float = Field(description="how long it took")
    host: str = Field(description="name of the machine")
    process: int = Field(description="number of the process that ran it")
    device_name: str = Field(description="name of the processor or GPU")


class StudyCell(Record):
    """One line of a study's ``results.jsonl``."""

    cell: str = Field(description="the cell's hash: its name in the store")
    strategy: str = Field(description="the recipe that the cell started from; `full` for the model without any")
    task: str = Field(description="name of the task")
    axes: dict[str, str] = Field(description="what the recipe axes of the study are in this cell")
    budget: float | str | None = Field(description="as in results-format.md")
    layer: int | None = Field(description="as in results-format.md")
    seed: int = Field(description="seed of random strategies; 0 where it makes no difference")
    clips: int = Field(description="number of clips")
    metrics: dict[str, float] = Field(description="as in results-format.md")
    interval: tuple[float, float] | None = Field(description="as in results-format.md")
    efficiency: dict[str, int | float | None] | None = Field(description="as in results-format.md, without the times")
    error: str | None = Field(description="why the cell failed; null if it did not")


class StudyPrediction(Prediction):
    """One line of a study's ``predictions.jsonl``."""

    cell: str = Field(description="the cell's hash")
    axes: dict[str, str] = Field(description="as in results.jsonl")


class Times(Record):
    """One line of ``times.jsonl``."""

    cell: str = Field(description="the cell's hash")
    prefill_seconds: float | None = Field(description="as in results-format.md")
    decode_seconds: float | None = Field(description="as in results-format.md")
    started: str = Field(description="when the cell was started, ISO 8601, UTC")
    seconds: float = Field(description="how long it took")
    host: str = Field(description="name of the machine")
    device_name: str = Field(description="name of the processor or GPU")


class Standing(Record):
    """One line of ``statistics.jsonl``: the seeds of one recipe at one budget on one task."""

    task: str = Field(description="name of the task")
    strategy: str = Field(description="as in results.jsonl")
    axes: dict[str, str] = Field(description="as in results.jsonl")
    budget: float | str | None = Field(description="as in results-format.md")
    seeds: list[int] = Field(description="seeds of the cells that finished")
    metric: str = Field(description="the task's headline metric")
    value: float = Field(description="the metric, mean over seeds")
    interval: tuple[float, float] | None = Field(
        description="95 % bootstrap interval of it over clips and seeds; null for fewer than 20 clips, or where "
        "nothing varies"
    )
    audio_tokens_removed: float = Field(description="as in results-format.md, mean over seeds")
    flops_removed: float = Field(description="as in results-format.md, mean over seeds")
    baseline: str | None = Field(description="what the difference is taken against; null if this is the baseline")
    difference: float | None = Field(description="the metric less the baseline's; null without one")
    difference_interval: tuple[float, float] | None = Field(description="95 % paired bootstrap interval of it")
    wins: int | None = Field(description="clips that are better than under the baseline (mean over seeds)")
    ties: int | None = Field(description="clips that are equal")
    losses: int | None = Field(description="clips that are worse")
    p: float | None = Field(description="probability of such a difference if there were none, two-sided")
    p_holm: float | None = Field(description="the same, corrected for all comparisons on the task (Holm)")
    rank: int | None = Field(
        description="place among the recipes at this budget; equal ranks are not distinguishable; null for the full "
        "model"
    )


class RefusedCell(Record):
    """A cell that cannot be."""

    axes: dict[str, str] = Field(description="what the axes are in it")
    reason: str = Field(description="why, in the words of the component that refused it")


class StudyRun(Record):
    """``study.json``: what the study is, and how the last run of it ended."""

    status: str = Field(description="`running`, `finished`, `failed` (some cells failed) or `cancelled`")
    study: str = Field(description="hash over the cells and what they are called: a folder holds one study")
    started: str = Field(description="start of this run, ISO 8601, UTC")
    finished: str | None = Field(default=None, description="end of it; null while running")
    arguments: dict[str, Any] = Field(description="axes, cells left out, fixed values, baseline and settings")
    cells: int = Field(description="cells of the study")
    done: int = Field(default=0, description="of these, finished")
    failed: int = Field(default=0, description="of these, failed")
    refused: list[RefusedCell] = Field(description="cells that cannot be")
    model_hash: str = Field(description="SHA-256 over the model's weights (its files, or tensors), or a hub's commit")
    device: str = Field(description="`cpu` or `cuda`")
    dtype: str = Field(description="number format of the model")
    versions: dict[str, str] = Field(description="versions of python, fastadasp, torch, transformers and more")
    git: str | None = Field(description="commit of the checkout that the code runs from; null outside one")
    executor: str = Field(description="`local` or `ray`")
    store: str = Field(description="folder that keeps the cells")
