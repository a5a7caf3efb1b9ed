"""Whether a component is a function of what it is shown: no state of torch's counts, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from fastadasp.engine.view import LayerView
from fastadasp.testing.failure import Subject, difference
from fastadasp.testing.views import tensors_of

T = TypeVar("T")


def called_twice(
    subject: Subject, function: Callable[[LayerView], T], view: LayerView, **others: Tensor | None
) -> tuple[T, T]:
    """Two answers to one view, under two states of torch's generators.

    Fails where `function` raises, changes a tensor of the view or one of the `others`, or draws from torch's generator.
    """
    shown = tensors_of(view) | {name: value for name, value in others.items() if value is not None}
    before = {name: value.clone() for name, value in shown.items()}
    answers = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            answers.append(subject.call("no error", function, view))
            subject.expect(
                torch.equal(state, torch.get_rng_state()),
                "torch's global generator was drawn from",
                "noise from layer.noise(), which follows the strategy's seed and the clip",
            )
        for name, value in shown.items():
            if not torch.equal(before[name], value):
                subject.fail(
                    f"{name} was changed: {difference(before[name], value)}", "nothing that is shown is changed"
                )
    return answers[0], answers[1]
