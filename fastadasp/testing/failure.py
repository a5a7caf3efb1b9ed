"""How a check says what a component did wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class ConformanceError(AssertionError):
    """A component breaks its contract. The message tells its author what was done, what came out, what was expected."""


@dataclass(frozen=True)
class Subject:
    """What is checked, and what is being done to it right now."""

    name: str
    doing: str = ""

    def when(self, doing: str) -> Subject:
        """The same subject at another step."""
        return Subject(self.name, doing)

    def fail(self, came: str, expected: str) -> NoReturn:
        """Raises ConformanceError."""
        told = f"done:     {self.doing}\n  came out: {came}\n  expected: {expected}"
        raise ConformanceError(f"{self.name} does not keep its contract\n  {told}")

    def expect(self, good: bool, came: str, expected: str) -> None:
        """Fails unless `good`."""
        if not good:
            self.fail(came, expected)

    def call(self, expected: str, function: Callable[..., T], *arguments: Any) -> T:
        """What `function` gives; an exception is a failure."""
        try:
            return function(*arguments)
        except ConformanceError:
            raise
        except Exception as error:
            raised = f"{type(error).__name__}: {error}"
            try:
                self.fail(raised, expected)
            except ConformanceError as failure:
                raise failure from error


def describe(value: object) -> str:
    """A tensor by dtype, shape and device; anything else by type and value."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a {dtype} tensor of shape {tuple(value.shape)} on {value.device.type}"
    return f"{value!r} ({type(value).__name__})"


def difference(ours: Tensor, theirs: Tensor) -> str:
    """Where two tensors of one shape differ most, for a message."""
    if torch.equal(ours, theirs):
        return "no difference"
    if ours.dtype == torch.bool or not ours.is_floating_point():
        where = (ours != theirs).nonzero()
        place = tuple(where[0].tolist())
        return f"{int((ours != theirs).sum())} entries differ, first at {place}: {ours[place]} and {theirs[place]}"
    gap = (ours.double() - theirs.double()).abs().nan_to_num(float("inf"))
    place = tuple(int(i) for i in torch.unravel_index(gap.argmax(), gap.shape))
    return f"at {place} {ours[place]:.6g} and {theirs[place]:.6g}"
