"""What a layer selector answers, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


def above(losses: Mapping[int, float]) -> dict[int, float]:
    """Each layer's loss beyond the least one."""
    least = min(losses.values())
    return {layer: loss - least for layer, loss in losses.items()}


class LayerChoice(BaseModel):
    """A selector's answer.

    Attributes:
        layer: the chosen start layer, counted from 0.
        losses: for each candidate layer what starting there is estimated to lose; larger = worse. The unit is the
            selector's own (nats for entropies); only the order counts.
        details: how the losses were estimated, as JSON values. ``unit`` names what they are measured in, and ``noise``
            is the difference below which two of them cannot be told apart.

    Example::

        >>> fastadasp.LayerChoice.least({1: 0.4, 2: 0.1, 3: 0.3}).layer
        2
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int
    losses: dict[int, float]
    details: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def least(cls, losses: dict[int, float], **details: Any) -> LayerChoice:
        """The layer with the least loss; of equal ones the first."""
        return cls(layer=min(losses, key=lambda layer: losses[layer]), losses=losses, details=details)

    @property
    def above(self) -> dict[int, float]:
        """Each layer's loss beyond the least one: 0 or more, whatever the selector counts from."""
        return above(self.losses)

    @property
    def unit(self) -> str:
        """What losses are measured in."""
        return str(self.details.get("unit") or "the selector's unit")

    @property
    def noise(self) -> float | None:
        """The difference below which two losses cannot be told apart; None where the selector does not say."""
        found = self.details.get("noise")
        return float(found) if isinstance(found, int | float) else None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.layer not in self.losses:
            raise ValueError(f"the chosen layer {self.layer} has no loss; layers with one: {sorted(self.losses)}")
        return self


class CalibrationClip(BaseModel):
    """One clip that a choice was made on; `sha256` is that of the recording's file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    audio: str
    sha256: str
    instruction: str


class Selection(BaseModel):
    """A choice with everything it depends on, as it is cached.

    Attributes:
        choice: the selector's answer.
        selector: its name and parameters.
        strategy: the recipe's name.
        strategy_hash: `Strategy.content_hash`, the layer not yet chosen.
        budget: what all candidates remove, e.g. ``flops=0.3``.
        left_out: layers that cannot meet the budget, each with the reason.
        model: folder or hub id.
        model_hash: SHA-256 over its weights.
        dtype: number format that it ran in.
        device: ``cpu`` or ``cuda``; empty, as the next two, in entries of earlier versions.
        version: of fastadasp.
        sources: class of each part of the strategy, and a hash of its source.
        clips: the calibration clips.
        clips_from: what they are: a task's own calibration clips or the first of its clips.
        seconds: how long it took.
        made: when, ISO 8601, UTC.
        format: version of these fields.

    Example::

        >>> strategy = fastadasp.load_strategy("fastadasp-sparse", layers={"features": "audio"})
        >>> task = fastadasp.get_registry().get("task", "er")
        >>> selection = fastadasp.select_layer(fastadasp.load_model(model_folder), strategy, task.examples(2))
        >>> selection.budget
        'flops=0.3'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    choice: LayerChoice
    selector: dict[str, Any]
    strategy: str
    strategy_hash: str
    budget: str
    left_out: dict[int, str]
    model: str
    model_hash: str
    dtype: str
    device: str = ""
    version: str = ""
    sources: dict[str, str] = Field(default_factory=dict)
    clips: tuple[CalibrationClip, ...]
    clips_from: str
    seconds: float
    made: str
    format: int = 1
