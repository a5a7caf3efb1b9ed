"""Scores by group: of the clips of one domain, one language, one kind of question."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from fastadasp.contracts.task import Example, Task


def group_scores(task: Task, examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, float]:
    """The headline metric of each group of clips, and its mean over the groups.

    ``accuracy[domain=music]`` is that of the clips with this tag. ``accuracy[domain]`` is the mean over the groups,
    each counting the same (macro); the task's own ``accuracy`` counts each clip the same (micro). Clips without the
    tag are in no group.
    """
    out: dict[str, float] = {}
    for tag in task.groups:
        places: dict[str, list[int]] = {}
        for place, example in enumerate(examples):
            if tag in example.tags:
                places.setdefault(example.tags[tag], []).append(place)
        scores = {
            value: task.score([predictions[i] for i in group], [examples[i].reference for i in group])[task.metric]
            for value, group in sorted(places.items())
        }
        if scores:
            out[f"{task.metric}[{tag}]"] = fmean(scores.values())
        out |= {f"{task.metric}[{tag}={value}]": score for value, score in scores.items()}
    return out
