"""Start layers: where each row's schedule starts on each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastadasp.contracts.task import Example, Task
from fastadasp.counts.shape import DecoderShape
from fastadasp.errors import StrategyError
from fastadasp.experiments.axes import Row
from fastadasp.experiments.records import Choice
from fastadasp.inference.clips import ReadyClip
from fastadasp.inference.load import LoadedModel
from fastadasp.inference.runner import check_reach
from fastadasp.models.lookup import adapter_for
from fastadasp.selection.cache import Notice
from fastadasp.selection.choice import Selection
from fastadasp.selection.select import at_layer, select_layer
from fastadasp.strategy import Strategy


class Starts:
    """Chooses start layers as cells ask for them.

    Choices are made anew: a cache may hold one from another device, which no cell's identity would tell.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        tasks: Mapping[str, Task],
        examples: Mapping[str, tuple[list[Example], str]],
        ready: Mapping[tuple[str, str], ReadyClip],
        notice: Notice,
    ) -> None:
        self._loaded, self._tasks, self._examples, self._ready, self._notice = loaded, tasks, examples, ready, notice
        self._shape = DecoderShape.of(adapter_for(loaded.model).decoder(loaded.model).config)

    def strategy(self, row: Row, task: str, clips: Sequence[ReadyClip]) -> tuple[Strategy | None, Choice | None]:
        """The row's strategy, and how its start layer was chosen on the task if it had to be. Raises StrategyError."""
        if row.strategy is None or not row.strategy.needs_calibration:
            return row.strategy, None
        examples, source = self._examples[task]
        selection = select_layer(
            self._loaded,
            row.strategy,
            examples,
            label=task,
            clips_from=source,
            max_new_tokens=self._tasks[task].max_new_tokens,
            ready=self._ready,
            cached=False,
            notice=self._notice,
        )
        chosen, layer = self._within_reach(row.strategy, selection, clips)
        return chosen, Choice(
            layer=layer,
            choice=selection.choice.layer,
            compared_at=selection.budget,
            losses=selection.choice.losses,
            left_out=selection.left_out,
            details=selection.choice.details,
            clips=[clip.id for clip in selection.clips],
            clips_from=selection.clips_from,
        )

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
