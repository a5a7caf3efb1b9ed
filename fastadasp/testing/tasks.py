"""The check of tasks."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

from fastadasp.audio import read_audio
from fastadasp.contracts.task import Example, Task
from fastadasp.registry.checks import name_fault
from fastadasp.strategy import get_registry
from fastadasp.testing.failure import ConformanceError, Subject, describe

FEW = 3
"""Recordings that are read."""
RATE = 16000


def check_task(task: Task | str) -> None:
    """Checks that a task keeps its contract.

    Its attributes are set; its clips come in the same order every time, with ids of their own and recordings that can
    be read; the references themselves score at least as well as wrong answers, and the headline metric is among the
    scores; its `tally`, if it has one, adds up to that metric; calibration clips are none of its own.

    Args:
        task: an object or an installed name.

    Raises:
        ConformanceError: it does not.
    """
    made = get_registry().get("task", task) if isinstance(task, str) else task
    if not isinstance(made, Task):
        raise ConformanceError(f"{describe(made)} is not a Task object")
    subject = Subject(f"task {getattr(made, 'name', type(made).__name__)!r}", "looked at its attributes")
    fault = name_fault(getattr(made, "name", None))
    subject.expect(fault is None, f"it {fault}", "a name in lower case")
    kinds = get_args(get_type_hints(Task)["kind"])
    subject.expect(made.kind in kinds, f"kind {made.kind!r}", f"one of {', '.join(map(repr, kinds))}")
    limit = made.max_new_tokens
    subject.expect(type(limit) is int and limit > 0, f"max_new_tokens {limit!r}", "a whole number above 0")
    examples = _check_examples(subject, made)
    _check_score(subject, made, examples)
    ids = {example.id for example in examples}
    for example in made.calibration(FEW):
        at = subject.when(f"calibration({FEW})")
        at.expect(
            example.id not in ids or example not in examples, f"clip {example.id!r}", "none of the task's own clips"
        )


def _check_examples(subject: Subject, task: Task) -> list[Example]:
    at = subject.when("examples()")
    examples = at.call("a list of Examples", task.examples)
    good = isinstance(examples, list) and bool(examples) and all(isinstance(e, Example) for e in examples)
    at.expect(good, describe(examples)[:200], "a list of Examples, at least one")
    at.expect(examples == task.examples(), "other clips, or another order, when called again", "the same every time")
    ids = [example.id for example in examples]
    at.expect(
        len(set(ids)) == len(ids), f"ids that repeat: {sorted({i for i in ids if ids.count(i) > 1})[:3]}", "unique ids"
    )
    first = subject.when(f"examples({FEW})").call("the first clips", task.examples, FEW)
    subject.when(f"examples({FEW})").expect(first == examples[:FEW], f"{len(first)} clips", f"the first {FEW} of all")
    for example in first:
        reading = subject.when(f"read the recording of {example.id!r}")
        wave = reading.call("a recording that can be read", read_audio, example.audio, RATE, None)
        reading.expect(len(wave) > 0, "no sound", "some sound")
    return examples


def _check_score(subject: Subject, task: Task, examples: list[Example]) -> None:
    references = [example.reference for example in examples]
    wrong = ["0.5" if task.choices else f"{reference} or rather not" for reference in references]
    totals = {}
    for what, answers in (
        ("the references", references),
        ("wrong answers", wrong),
        ("empty answers", [""] * len(wrong)),
    ):
        at = subject.when(f"score(predictions, references) with {what} as predictions")
        scores = at.call("metrics by name", task.score, answers, references)
        good = isinstance(scores, dict) and task.metric in scores
        at.expect(good, repr(scores), f"a dictionary with the headline metric {task.metric!r}")
        finite = all(isinstance(value, int | float) and math.isfinite(value) for value in scores.values())
        at.expect(finite, repr(scores), "finite numbers")
        totals[what] = float(scores[task.metric])
        tally = task.tally(answers, references)
        if tally is not None:
            at = subject.when(f"tally(predictions, references) with {what} as predictions")
            total = at.call("the metric", tally.total, tally.counts.sum(0))
            near = math.isclose(total, totals[what], rel_tol=1e-6, abs_tol=1e-6)
            at.expect(near, f"{task.metric} {total:.6g}", f"{totals[what]:.6g}, as score() has it")
    best, others = totals["the references"], [totals["wrong answers"], totals["empty answers"]]
    worse = (
        min(others) if task.higher_is_better else max(others)
    )  # an answer that names an option is right with any words
    at = subject.when("score(predictions, references) with the references and with wrong answers as predictions")
    direction = "higher" if task.higher_is_better else "lower"
    at.expect(
        best > worse if task.higher_is_better else best < worse,
        f"{task.metric} {best:.6g} and {worse:.6g}, where {direction} is better",
        "a better score for the references",
    )
