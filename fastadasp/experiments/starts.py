"""Start layers of a comparison: where each row's schedule starts on each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastadasp.contracts.task import Example
from fastadasp.counts.shape import DecoderShape
from fastadasp.errors import StrategyError
from fastadasp.experiments.grid import Grid, Row
from fastadasp.experiments.records import StartLayer
from fastadasp.inference.clips import ReadyClip
from fastadasp.inference.load import LoadedModel
from fastadasp.inference.runner import check_reach
from fastadasp.models.lookup import adapter_for
from fastadasp.selection.cache import Notice
from fastadasp.selection.choice import Selection
from fastadasp.selection.select import at_layer, calibration_examples, select_layer
from fastadasp.strategy import Strategy


def needed_examples(grid: Grid) -> dict[str, tuple[list[Example], str]]:
    """The calibration clips of each task and what they are; empty if no strategy has to be calibrated."""
    if not any(row.strategy is not None and row.strategy.needs_calibration for row in grid.rows):
        return {}
    return {name: calibration_examples(task) for name, task in grid.tasks.items()}


class Starts:
    """Chooses start layers as cells ask for them; `made` holds what was chosen."""

    def __init__(
        self,
        grid: Grid,
        loaded: LoadedModel,
        examples: Mapping[str, tuple[list[Example], str]],
        ready: Mapping[tuple[str, str], ReadyClip],
        notice: Notice,
        *,
        cached: bool = True,
    ) -> None:
        self._cached = cached
        self._grid, self._loaded, self._examples, self._ready, self._notice = grid, loaded, examples, ready, notice
        self._shape = DecoderShape.of(adapter_for(loaded.model).decoder(loaded.model).config)
        self.made: list[StartLayer] = []

    def strategy(self, row: Row, task: str, clips: Sequence[ReadyClip]) -> Strategy | None:
        """The row's strategy, calibrated on the task if it has to be. Raises StrategyError."""
        if row.strategy is None or not row.strategy.needs_calibration:
            return row.strategy
        examples, source = self._examples[task]
        selection = select_layer(
            self._loaded,
            row.strategy,
            examples,
            label=task,
            clips_from=source,
            max_new_tokens=self._grid.tasks[task].max_new_tokens,
            ready=self._ready,
            cached=self._cached,
            notice=self._notice,
        )
        chosen, layer = self._within_reach(row.strategy, selection, clips)
        self.made.append(
            StartLayer(
                strategy=row.name,
                task=task,
                budget=str(row.strategy.budget),
                seed=row.strategy.seed,
                layer=layer,
                choice=selection.choice.layer,
                compared_at=selection.budget,
                losses=selection.choice.losses,
                left_out=selection.left_out,
                details=selection.choice.details,
                clips=[clip.id for clip in selection.clips],
                clips_from=selection.clips_from,
            )
        )
        return chosen

    def _within_reach(
        self, strategy: Strategy, selection: Selection, clips: Sequence[ReadyClip]
    ) -> tuple[Strategy, int]:
        """At the chosen layer; where some clip cannot meet the budget from there, at the best layer that serves all."""
        losses = selection.choice.losses
        order = [selection.choice.layer, *sorted(losses, key=lambda layer: losses[layer])]
        faults: list[StrategyError] = []
        for layer in order:
            placed = at_layer(strategy, layer)
            try:
                check_reach(placed, self._shape, clips)
            except StrategyError as fault:
                faults.append(fault)
                continue
            return placed, layer
        raise faults[0]
