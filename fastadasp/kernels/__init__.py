"""Triton kernels for what the engine does most, and the one place that chooses between them and torch.

Whatever is computed here is computed by torch where there is no Triton, to the same result.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor, is_grad_enabled

from fastadasp.errors import RunError

CHOICES = ("auto", "torch", "triton")
"""Values of ``FASTADASP_KERNELS``: `auto` takes Triton for tensors on a GPU; `triton` always (without a GPU that needs
Triton's interpreter, ``TRITON_INTERPRET=1``)."""


def kernels_for(*tensors: Tensor) -> Any:
    """The module of kernels for these tensors, or None where torch does the work: no Triton, or gradients wanted."""
    choice = os.environ.get("FASTADASP_KERNELS", "auto")
    if choice not in CHOICES:
        raise RunError(f"FASTADASP_KERNELS is one of {', '.join(CHOICES)}, not {choice!r}")
    if choice == "torch" or (choice == "auto" and not all(x.is_cuda for x in tensors)):
        return None
    if is_grad_enabled() and any(x.requires_grad for x in tensors):
        return None
    if _triton_is_there():
        return import_module("fastadasp.kernels.triton_kernels")
    if choice == "triton":
        raise RunError("FASTADASP_KERNELS=triton, but Triton is not installed: pip install triton")
    return None


@cache
def _triton_is_there() -> bool:
    return find_spec("triton") is not None
