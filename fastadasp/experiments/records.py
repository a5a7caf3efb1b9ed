"""Every key of the files of `compare` and `ablate`. `docs/results-format.md` is checked against these models."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fastadasp.inference.costs import Efficiency

FORMAT = 1
"""Version of the store's files."""

BATCH_TIMES = frozenset({"prefill_seconds", "decode_seconds"})
CLIP_TIMES = ("encoder_clip_seconds", "prefill_clip_seconds", "decode_clip_seconds", "encoder_machine", "machine")
TIMES = BATCH_TIMES | set(CLIP_TIMES)
"""What differs from run to run; it stands in ``times.jsonl``."""


def _same(name: str) -> str:
    """What a cost means, as its own description says."""
    return str(Efficiency.model_fields[name].description)


class Record(BaseModel):
    """One JSON object in a file of a run."""

    model_config = ConfigDict(extra="forbid")


class Worst(Record):
    """The clip that a recipe did worst on; among equals, the one that lost most of its audio."""

    id: str = Field(description="its id in the task")
    value: float = Field(description="the headline metric of this clip by itself")
    removed: float = Field(description="fraction of its audio tokens gone by the last layer")


class Cell(Record):
    """One line of ``results.jsonl``: one recipe at one budget with one seed on one task."""

    cell: str = Field(description="the cell's hash: its name in the store")
    strategy: str = Field(description="name of the strategy; `full` for the model without any")
    task: str = Field(description="name of the task")
    axes: dict[str, str] = Field(
        default_factory=dict, description="what `ablate` changed in the recipe, by field; empty in a comparison"
    )
    budget: float | str | None = Field(
        description="fraction of the audio tokens removed by the last layer; `flops=F` of the decoder's prefill FLOPs; "
        "`kv=K` of the bytes of keys and values; `ratio=R` for the schedule's own ratio; `mean-tokens=T` and "
        "`mean-flops=F` of all clips together; null for the full model"
    )
    layer: int | None = Field(
        default=None, description="layer that the schedule starts at, counted from 0; null for the full model"
    )
    seed: int = Field(description="seed of random strategies; 0 where it makes no difference")
    clips: int = Field(description="number of clips")
    metrics: dict[str, float] = Field(description="metrics of the task, in percent or points; empty if the cell failed")
    interval: tuple[float, float] | None = Field(
        default=None,
        description="95 % bootstrap interval of the task's headline metric over the clips (1000 samples); null if the "
        "cell failed, has fewer than 20 clips, or scores the same on every sample",
    )
    efficiency: dict[str, int | float | None] | None = Field(description="costs; null if the cell failed")
    worst: Worst | None = Field(default=None, description="the clip with the worst metric; null if the cell failed")
    engine: str = Field(default="transformers", description="what answered the clips: transformers or vLLM")
    error: str | None = Field(default=None, description="why the cell failed; null if it did not")


class Prediction(Record):
    """One line of ``predictions.jsonl``: one clip in one cell."""

    cell: str = Field(description="as in results.jsonl")
    strategy: str = Field(description="as in results.jsonl")
    task: str = Field(description="as in results.jsonl")
    axes: dict[str, str] = Field(default_factory=dict, description="as in results.jsonl")
    budget: float | str | None = Field(description="as in results.jsonl")
    seed: int = Field(description="as in results.jsonl")
    id: str = Field(description="id of the clip in its task")
    audio: str = Field(description="file name of the recording")
    unit: str = Field(
        default="",
        description="what counts as one in statistics: the recording, or the value of the task's `unit` column",
    )
    reference: str = Field(description="the right answer")
    prediction: str = Field(description="the model's answer")
    tags: dict[str, str] = Field(description="labels of the clip, e.g. `speaker`, `seen_speaker`")


class Choice(Record):
    """How a start layer was chosen on calibration clips."""

    layer: int = Field(description="layer that was used")
    choice: int = Field(
        description="layer that the selector chose; another was used if a clip cannot meet the budget from there"
    )
    compared_at: str = Field(description="budget at which the candidate layers were compared")
    losses: dict[int, float] = Field(description="estimated loss of each candidate layer, larger is worse")
    left_out: dict[int, str] = Field(description="layers that cannot meet that budget, with the reason")
    details: dict[str, Any] = Field(description="how the selector estimated, e.g. points, projection, variance kept")
    clips: list[str] = Field(description="ids of the calibration clips")
    clips_from: str = Field(description="what the calibration clips are")


class StartLayer(Choice):
    """A start layer that was chosen, and for which cell."""

    strategy: str = Field(description="as in results.jsonl")
    task: str = Field(description="as in results.jsonl")
    axes: dict[str, str] = Field(default_factory=dict, description="as in results.jsonl")
    budget: str = Field(description="as in results.jsonl")
    seed: int = Field(description="as in results.jsonl")


class Times(Record):
    """One line of ``times.jsonl``: what differs from run to run."""

    cell: str = Field(description="as in results.jsonl")
    prefill_seconds: float | None = Field(
        description="time of the decoder's prefill, median of a batch but the first, seconds"
    )
    decode_seconds: float | None = Field(
        description="time of all steps after the prefill, median of a batch but the first, seconds"
    )
    encoder_clip_seconds: float | None = Field(default=None, description=_same("encoder_clip_seconds"))
    prefill_clip_seconds: float | None = Field(default=None, description=_same("prefill_clip_seconds"))
    decode_clip_seconds: float | None = Field(default=None, description=_same("decode_clip_seconds"))
    encoder_machine: str | None = Field(default=None, description=_same("encoder_machine"))
    machine: str | None = Field(default=None, description=_same("machine"))
    started: str = Field(description="when the cell was started, ISO 8601, UTC")
    seconds: float = Field(description="how long it took")
    host: str = Field(description="name of the machine")
    device_name: str = Field(description="name of the processor or GPU")


class Standing(Record):
    """One line of ``statistics.jsonl``: the seeds of one recipe at one budget on one task."""

    task: str = Field(description="name of the task")
    strategy: str = Field(description="as in results.jsonl")
    axes: dict[str, str] = Field(description="as in results.jsonl")
    budget: float | str | None = Field(description="as in results.jsonl")
    seeds: list[int] = Field(description="seeds of the cells that finished")
    metric: str = Field(description="the task's headline metric")
    value: float | None = Field(description="the metric, mean over seeds; null if every seed failed")
    interval: tuple[float, float] | None = Field(
        description="95 % bootstrap interval of it over recordings (or values of `unit`) and seeds; null for fewer "
        "than 20 of them, or where nothing varies"
    )
    audio_tokens_removed: float | None = Field(
        description="the same fraction as in results.jsonl, mean over seeds; null if every seed failed"
    )
    flops_removed: float | None = Field(
        description="the same fraction as in results.jsonl, mean over seeds; null if every seed failed"
    )
    baseline: str | None = Field(description="what the difference is taken against; null if this is the baseline")
    difference: float | None = Field(description="the metric less the baseline's; null without one")
    difference_interval: tuple[float, float] | None = Field(
        description="95 % paired bootstrap interval of it; null for fewer than 20 recordings (or values of `unit`)"
    )
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


class Result(Record):
    """A finished cell as the store keeps it. What a study calls the cell is not part of it."""

    format: int = Field(default=FORMAT, description="version of these keys")
    cell: str = Field(description="the cell's hash")
    identity: dict[str, Any] = Field(description="everything that decides the result; the hash is taken over it")
    layer: int | None = Field(description="as in results.jsonl")
    metrics: dict[str, float] = Field(description="as in results.jsonl")
    interval: tuple[float, float] | None = Field(description="as in results.jsonl")
    efficiency: Efficiency | None = Field(description="as in results.jsonl, and the times")
    start: Choice | None = Field(default=None, description="how the start layer was chosen; null where it is named")
    worst: Worst | None = Field(default=None, description="as in results.jsonl")
    answers: list[str] = Field(description="the model's answers in the clips' order")
    error: str | None = Field(description="why the cell failed; null if it did not")
    started: float = Field(description="when it was started, seconds since 1970, UTC")
    seconds: float = Field(description="how long it took")
    host: str = Field(description="name of the machine")
    process: int = Field(description="number of the process that ran it")
    device_name: str = Field(description="name of the processor or GPU")


class TaskFacts(Record):
    """What decides whether figures of a task may be compared."""

    metric: str = Field(description="the headline metric")
    higher_is_better: bool = Field(description="whether larger is better")
    settings: dict[str, str] = Field(description="what else decides a score, e.g. the normaliser")
    data: str = Field(description="SHA-256 over ids, recordings (their content) and right answers, in order")
    questions: str = Field(description="SHA-256 over what each clip is asked, in order")
    revision: str | None = Field(
        default=None, description="commit of the hub's dataset that the clips were read from; null for other sources"
    )


class Run(Record):
    """``run.json``: what was run, with what, and how the last run of it ended."""

    command: str = Field(description="`compare` or `ablate`")
    status: str = Field(description="`running`, `finished`, `failed` (some cells failed) or `cancelled`")
    study: str = Field(description="hash over the cells and what they are called: a folder holds one")
    started: str = Field(description="start of this run, ISO 8601, UTC")
    finished: str | None = Field(default=None, description="end of it; null while running")
    arguments: dict[str, Any] = Field(description="arguments of the command, or axes and settings of the study")
    cells: int = Field(description="cells in all")
    done: int = Field(default=0, description="of these, finished")
    failed: int = Field(default=0, description="of these, failed")
    refused: list[RefusedCell] = Field(default_factory=list, description="cells of a study that cannot be")
    seed: int = Field(description="first seed of random strategies")
    model: str = Field(description="path or hub id of the model")
    model_hash: str | None = Field(
        description="SHA-256 over the model's weights (its files, or tensors), or a hub's commit"
    )
    device: str = Field(description="`cpu` or `cuda`")
    device_name: str = Field(description="name of the processor or GPU")
    dtype: str = Field(description="number format of the model")
    threads: int = Field(description="CPU threads of torch")
    batch_size: int | None = Field(
        default=None, description="clips at a time; with `--batch-size auto` what was found when the run began"
    )
    device_map: dict[str, int | str] | None = Field(
        default=None, description="with `--device-map auto` the device of each part of the model"
    )
    versions: dict[str, str] = Field(description="versions of python, fastadasp, torch, transformers and more")
    git: str | None = Field(description="commit of the checkout that the code runs from; null outside one")
    strategies: dict[str, dict[str, Any]] = Field(
        description="contents of each recipe before budgets, axes and, if there are axes, what is set; by name"
    )
    origins: dict[str, str] = Field(description="distribution, version and module of each recipe's components")
    tasks: dict[str, int] = Field(description="clips of each task")
    prompts: dict[str, str] = Field(
        default_factory=dict,
        description="the whole prompt of each task's first clip as the model read it, with its chat template; one sign "
        "stands for all audio tokens",
    )
    facts: dict[str, TaskFacts] = Field(
        default_factory=dict, description="what decides whether figures of a task may be compared, by task"
    )
    code: str | None = Field(default=None, description="SHA-256 over the sources of fastadasp that a cell runs through")
    start_layers: list[StartLayer] = Field(
        default_factory=list,
        description="start layers that were chosen on calibration clips; none for recipes that name one",
    )
    executor: str = Field(description="`local`, `processes` or `ray`")
    store: str = Field(description="folder that keeps the cells")
