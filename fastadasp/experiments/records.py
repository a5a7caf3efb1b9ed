"""Every key of a run's files. `docs/results-format.md` is checked against these models."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """One JSON object in a file of a run."""

    model_config = ConfigDict(extra="forbid")


class Efficiency(Record):
    """What a cell cost, over all of its clips."""

    audio_tokens: float = Field(description="audio tokens of a clip before the first layer, mean")
    audio_tokens_left: float = Field(description="audio tokens of a clip that leave the last layer, mean")
    audio_tokens_removed: float = Field(description="fraction of all audio tokens gone by the last layer")
    kv_bytes: float = Field(
        description="bytes of keys and values after the prompt, mean of a clip, padding not counted"
    )
    kv_removed: float = Field(description="fraction of those bytes removed against the full model")
    flops: float = Field(description="FLOPs of the decoder's prefill, mean of a clip (analytic; encoder not counted)")
    flops_removed: float = Field(description="fraction of those FLOPs removed against the full model")
    encoder_flops: float | None = Field(
        default=None,
        description="FLOPs of audio encoder and projector for one clip, counted once by torch's FlopCounterMode; "
        "null if not counted",
    )
    flops_removed_with_encoder: float | None = Field(
        default=None,
        description="fraction removed of the decoder's and the encoder's FLOPs together; null if not counted",
    )
    prefill_seconds: float = Field(description="time of the decoder's prefill, median of a batch, seconds")
    decode_seconds: float = Field(description="time of all steps after the prefill, median of a batch, seconds")
    new_tokens: float = Field(description="decoding steps of a batch, mean")
    batch_size: int = Field(description="clips in a batch (the last may hold fewer)")


class Cell(Record):
    """One line of ``results.jsonl``: one strategy at one budget on one task."""

    strategy: str = Field(description="name of the strategy; `full` for the model without any")
    task: str = Field(description="name of the task")
    budget: float | str | None = Field(
        description="fraction of the audio tokens removed by the last layer; `flops=F` of the decoder's prefill FLOPs; "
        "`kv=K` of the bytes of keys and values; `ratio=R` for the schedule's own ratio; null for the full model"
    )
    layer: int | None = Field(
        default=None, description="layer that the schedule starts at, counted from 0; null for the full model"
    )
    seed: int = Field(description="seed of random strategies")
    clips: int = Field(description="number of clips")
    metrics: dict[str, float] = Field(description="metrics of the task, in percent or points; empty if the cell failed")
    interval: tuple[float, float] | None = Field(
        default=None,
        description="95 % bootstrap interval of the task's headline metric over the clips (1000 samples); null if the "
        "cell failed, has fewer than 20 clips, or scores the same on every sample",
    )
    efficiency: Efficiency | None = Field(description="costs; null if the cell failed")
    error: str | None = Field(default=None, description="why the cell failed; null if it did not")


class Prediction(Record):
    """One line of ``predictions.jsonl``: one clip in one cell."""

    strategy: str = Field(description="as in results.jsonl")
    task: str = Field(description="as in results.jsonl")
    budget: float | str | None = Field(description="as in results.jsonl")
    seed: int = Field(description="as in results.jsonl")
    id: str = Field(description="id of the clip in its task")
    audio: str = Field(description="file name of the recording")
    reference: str = Field(description="the right answer")
    prediction: str = Field(description="the model's answer")
    tags: dict[str, str] = Field(description="labels of the clip, e.g. `speaker`, `seen_speaker`")


class StartLayer(Record):
    """A start layer that was chosen on calibration clips."""

    strategy: str = Field(description="as in results.jsonl")
    task: str = Field(description="as in results.jsonl")
    budget: str = Field(description="as in results.jsonl")
    seed: int = Field(description="as in results.jsonl")
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


class Run(Record):
    """``run.json``: what was run, with what, and how it ended."""

    status: str = Field(description="`running`, `finished`, `failed` (some cells failed) or `cancelled`")
    started: str = Field(description="start, ISO 8601, UTC")
    finished: str | None = Field(default=None, description="end, ISO 8601, UTC; null while running")
    arguments: dict[str, Any] = Field(description="arguments of the comparison")
    seed: int = Field(description="seed of random strategies")
    model: str = Field(description="path or hub id of the model")
    model_hash: str | None = Field(description="SHA-256 over the weight files of a local model; null for a hub id")
    device: str = Field(description="`cpu` or `cuda`")
    device_name: str = Field(description="name of the processor or GPU")
    dtype: str = Field(description="number format of the model")
    threads: int = Field(description="CPU threads of torch")
    versions: dict[str, str] = Field(description="versions of python, fastadasp, torch, transformers and more")
    git: str | None = Field(description="commit of the checkout that the code runs from; null outside one")
    strategies: dict[str, dict[str, Any]] = Field(description="contents of each recipe, by name")
    origins: dict[str, str] = Field(description="distribution, version and module of each recipe's components")
    tasks: dict[str, int] = Field(description="clips of each task")
    prompts: dict[str, str] = Field(
        default_factory=dict,
        description="the whole prompt of each task's first clip as the model read it, with its chat template; one sign "
        "stands for all audio tokens",
    )
    start_layers: list[StartLayer] = Field(
        default_factory=list,
        description="start layers that were chosen on calibration clips; none for recipes that name one",
    )
