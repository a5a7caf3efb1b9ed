"""One cell: one row of a grid on the clips of one task, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fastadasp.contracts.task import Example, Task
from fastadasp.experiments.grid import Row
from fastadasp.experiments.lines import Draws, draw, interval
from fastadasp.experiments.records import Cell, Prediction
from fastadasp.experiments.starts import Starts
from fastadasp.inference import runner
from fastadasp.inference.clips import ReadyClip
from fastadasp.inference.load import LoadedModel
from fastadasp.models.lookup import adapter_for
from fastadasp.tasks.groups import group_scores


@dataclass(frozen=True)
class Scored:
    """A cell that was run; `answers` are in the clips' order. A failed one has its error and neither of the others."""

    cell: Cell
    answers: list[str] = field(default_factory=list)
    draws: Draws | None = None


def run_row(
    loaded: LoadedModel,
    starts: Starts,
    row: Row,
    task: Task,
    examples: Sequence[Example],
    clips: Sequence[ReadyClip],
    *,
    batch_size: int,
    encoder_flops: float,
    progress: Callable[[int], None],
) -> Scored:
    """Runs a row on a task; whatever goes wrong stands in the cell.

    Args:
        clips: the examples, ready for the decoder.
        progress: is told the clips of each batch.
    """
    cell = Cell(
        strategy=row.name,
        task=task.name,
        budget=budget_value(row),
        seed=row.seed,
        clips=len(clips),
        metrics={},
        efficiency=None,
    )
    references = [example.reference for example in examples]
    try:
        strategy = starts.strategy(row, task.name, clips)
        cell.layer = None if strategy is None else strategy.layers.start_layer(num_layers(loaded))
        outcome = runner.run_cell(
            loaded,
            strategy,
            clips,
            max_new_tokens=task.max_new_tokens,
            batch_size=batch_size,
            progress=progress,
            encoder_flops=encoder_flops,
            choices=task.choices,
        )
        metrics, draws = task.score(outcome.predictions, references), draw(task, outcome.predictions, references)
        metrics = {**metrics, **group_scores(task, examples, outcome.predictions)}
    except Exception as error:  # a stranger's component may raise anything; the other cells must go on
        cell.error = f"{type(error).__name__}: {error}"
        return Scored(cell)
    cell.metrics, cell.interval, cell.efficiency = metrics, interval(draws, len(clips)), outcome.efficiency
    return Scored(cell, outcome.predictions, draws)


def predictions(row: Row, task: str, examples: Sequence[Example], answers: Sequence[str]) -> list[Prediction]:
    """The answers of a cell as they are recorded; none if it failed."""
    if not answers:
        return []
    return [
        Prediction(
            strategy=row.name,
            task=task,
            budget=budget_value(row),
            seed=row.seed,
            id=example.id,
            audio=example.audio.name,
            reference=example.reference,
            prediction=answer,
            tags=example.tags,
        )
        for example, answer in zip(examples, answers, strict=True)
    ]


def budget_value(row: Row) -> float | str | None:
    """A row's budget as results hold it."""
    if row.budget is None:
        return None
    return row.budget.tokens if row.budget.tokens is not None else str(row.budget)


def num_layers(loaded: LoadedModel) -> int:
    """Decoder layers of a loaded model."""
    adapter = adapter_for(loaded.model)
    return len(getattr(adapter.decoder(loaded.model), adapter.layers))
