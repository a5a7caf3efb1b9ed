"""Whether a component leaves the device alone: nothing waits for it, nothing lies elsewhere, nothing grows as N x N.

This is found out with tensors that have a shape, a dtype and a device but no content (PyTorch's fake tensors, and its
device ``meta``): whatever needs their values on the host cannot go on. Where there is a GPU, PyTorch itself refuses to
wait, too (`torch.cuda.set_sync_debug_mode`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastadasp.engine.view import LayerView
from fastadasp.testing.failure import Subject
from fastadasp.testing.views import LONG, moved, view_of, words

Run = Callable[[LayerView], Any]
"""Calls the component with a view; makes its other arguments from the view's tensors."""

_WAIT = "nothing that waits for the device: no .item(), .tolist(), .numpy(), bool(tensor), nonzero or x[mask]"


def check_device_use(subject: Subject, run: Run, view: LayerView, *, long: LayerView | None = None) -> None:
    """Everything here; `view` is on the CPU, `long` is one of a single long clip."""
    _without_values(subject, run, view)
    _on_one_device(subject, run, view)
    if torch.cuda.is_available():
        _without_waiting(subject, run, moved(view, lambda x: x.cuda()))
    _without_squares(subject, run, view_of(LONG) if long is None else long)


def _without_waiting(subject: Subject, run: Run, view: LayerView) -> None:
    """On a GPU: a first call may compile or load something, the second one must not wait."""
    run(view)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        subject.when(f"{subject.doing}; {words(view)}").call(_WAIT, run, view)
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _without_values(subject: Subject, run: Run, view: LayerView) -> None:
    """With tensors that have no content."""
    subject = subject.when(f"{subject.doing}; {words(view)}, whose values are not known to the host")
    with _contentless(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        try:
            run(moved(view, mode.from_tensor))
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            subject.fail(f"it asked for values ({error.func})", _WAIT)
        except RuntimeError as error:
            if "numpy" not in str(error):
                raise
            subject.fail(f"it asked for values ({error})", _WAIT)


def _on_one_device(subject: Subject, run: Run, view: LayerView) -> None:
    """With tensors of the device ``meta``, which stands for a GPU."""
    subject = subject.when(f"{subject.doing}; {words(view, 'another device than the CPU')}")
    there = moved(view, lambda x: x.to("meta"))
    with _contentless(), _Watch(subject, strays=True):
        try:
            made = run(there)
        except NotImplementedError:
            return  # an operation without a form for tensors that have no content
    for tensor in tree_leaves(made):
        if isinstance(tensor, Tensor) and tensor.device.type != "meta":
            subject.fail(f"a tensor on {tensor.device.type}", "one on the view's device")


def _without_squares(subject: Subject, run: Run, long: LayerView) -> None:
    """No tensor has as many entries as the clip's tokens squared."""
    subject = subject.when(f"{subject.doing}; {words(long)}")
    with (
        _contentless(),
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        _Watch(subject, most=long.spans.longest**2),
    ):
        run(moved(long, mode.from_tensor))


class _Watch(TorchDispatchMode):
    """Looks at every operation: for tensors that stray from their device, for those with `most` entries or more."""

    def __init__(self, subject: Subject, *, strays: bool = False, most: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.subject, self.strays, self.most = subject, strays, most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.dim() > 0]
        if self.strays and given:
            own = {x.device.type for x in given}
            to = torch.device(kwargs.get("device") or given[0].device).type
            if func is torch.ops.aten._to_copy.default and to not in own and not kwargs.get("non_blocking"):
                self.subject.fail(f"a copy from {_named(own)} to {_named({to})}", _WAIT)
            if len(own) > 1:
                came = f"{func} of tensors on {_named(own)}"
                self.subject.fail(came, "tensors on the view's device: make new ones with device=layer.valid.device")
        made = func(*args, **kwargs)
        for tensor in tree_leaves(made) if self.most is not None else ():
            if isinstance(tensor, Tensor):
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                if self.most is not None and size >= self.most:
                    came = f"{func} made a tensor of shape {tuple(tensor.shape)}"
                    self.subject.fail(came, "memory that grows with the audio tokens, not with their square")
        return made


def _named(devices: set[str]) -> str:
    return " and ".join("the device" if kind == "meta" else f"the {kind.upper()}" for kind in sorted(devices))


@contextmanager
def _contentless() -> Iterator[None]:
    """Where tensors have no content, the engine's own kernels, which need some, step aside."""
    before = os.environ.get("FASTADASP_KERNELS")
    os.environ["FASTADASP_KERNELS"] = "torch"
    try:
        yield
    finally:
        if before is None:
            del os.environ["FASTADASP_KERNELS"]
        else:
            os.environ["FASTADASP_KERNELS"] = before
