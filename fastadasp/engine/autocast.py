"""Scores in the numbers that they are given, whatever `torch.autocast` the caller has open."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """While open, what runs on `device` is not cast.

    Under autocast matrix products of float32 are in half precision. There sums of squares overflow, and scores that
    are nearly alike change places.
    """
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)
