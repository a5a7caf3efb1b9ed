"""What tests of the conformance checks share."""

from __future__ import annotations

from typing import Any

import pytest

from fastadasp import Scorer, testing


def refuses(check: Any, component: Any, *said: str) -> None:
    """The check fails, with these words in its message and the form that all messages have."""
    with pytest.raises(testing.ConformanceError) as caught:
        check(component)
    message = str(caught.value)
    assert isinstance(caught.value, AssertionError)
    for words in ("does not keep its contract\n  done:     ", "\n  came out: ", "\n  expected: ", *said):
        assert words in message, message


class Norm(Scorer):
    """A sound scorer; what follows differs from it in one respect each."""

    name = "norm"
    gives = ("importance",)

    def importance(self, layer: Any) -> Any:
        return layer.hidden.float().norm(dim=-1)


def threshold(layer: Any, select: Any, remove: Any) -> Any:
    """Pruning by a threshold: too many or too few go where scores are equal."""
    ordered = select.masked_fill(~layer.valid, float("inf")).sort(1).values
    return layer.valid & (select >= ordered.gather(1, remove.clamp_max(select.shape[1] - 1).unsqueeze(1)))
