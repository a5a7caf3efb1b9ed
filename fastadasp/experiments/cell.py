"""One cell: a recipe at one budget with one seed on the clips of one task, and what is known of it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastadasp.contracts.task import Example, Task
from fastadasp.experiments.axes import Row
from fastadasp.experiments.records import Worst
from fastadasp.experiments.starts import Starts
from fastadasp.experiments.statistics import by_clip, draw, interval, number, unit_names
from fastadasp.inference.clips import ReadyClip
from fastadasp.inference.costs import Efficiency
from fastadasp.inference.load import LoadedModel
from fastadasp.inference.runner import Runner
from fastadasp.models.lookup import adapter_for
from fastadasp.tasks.groups import group_scores

if TYPE_CHECKING:
    from fastadasp.experiments.records import Choice


@dataclass
class Scored:
    """A cell that was run; `answers` are in the clips' order. A failed one has its error and no metrics."""

    layer: int | None = None
    start: Choice | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    efficiency: Efficiency | None = None
    worst: Worst | None = None
    answers: list[str] = field(default_factory=list)
    error: str | None = None


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
    engine: Runner,
) -> Scored:
    """Runs a row on a task; whatever goes wrong stands in what comes back.

    Args:
        clips: the examples, ready for the decoder.
        progress: is told the clips of each batch.
        engine: answers the clips.
    """
    out = Scored()
    references = [example.reference for example in examples]
    try:
        strategy, out.start = starts.strategy(row, task.name, clips)
        out.layer = None if strategy is None else strategy.layers.start_layer(num_layers(loaded))
        outcome = engine.run(
            loaded,
            strategy,
            clips,
            max_new_tokens=task.max_new_tokens,
            batch_size=batch_size,
            progress=progress,
            encoder_flops=encoder_flops,
            choices=task.choices,
        )
        answers = outcome.predictions
        metrics = {**task.score(answers, references), **group_scores(task, examples, answers)}
        units = number(unit_names(task, examples))
        spread = interval(draw(task, answers, references, units), int(units.max(initial=-1)) + 1)
        worst = worst_of(task, examples, answers, [1 - c.audio_tokens_left / c.audio_tokens for c in outcome.costs])
    except Exception as error:  # a stranger's component may raise anything; the other cells must go on
        out.error = f"{type(error).__name__}: {error}"
        return out
    out.metrics, out.interval, out.efficiency, out.answers = metrics, spread, outcome.efficiency, answers
    out.worst = worst
    return out


def worst_of(task: Task, examples: Sequence[Example], answers: Sequence[str], removed: Sequence[float]) -> Worst:
    """The clip with the worst metric by itself; among equals, the one that lost the largest share of its audio."""
    values = by_clip(task, answers, [example.reference for example in examples]).tolist()
    sign = -1 if task.higher_is_better else 1
    place = max(range(len(values)), key=lambda i: (sign * values[i], removed[i]))
    return Worst(id=examples[place].id, value=values[place], removed=removed[place])


def num_layers(loaded: LoadedModel) -> int:
    """Decoder layers of a loaded model."""
    adapter = adapter_for(loaded.model)
    return len(getattr(adapter.decoder(loaded.model), adapter.layers))
