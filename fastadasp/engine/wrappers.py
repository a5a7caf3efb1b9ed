"""Models inside wrappers of other libraries."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(model: nn.Module) -> nn.Module:
    """The transformers model inside ``torch.compile(model)``, a PeftModel, DataParallel or their combinations."""
    while True:
        inner = _inner(model)
        if inner is None:
            return model
        model = inner


def _inner(model: Any) -> nn.Module | None:
    if isinstance(model, DataParallel | DistributedDataParallel):
        parallel: nn.Module = model.module
        return parallel
    compiled: nn.Module | None = getattr(model, "_orig_mod", None)
    if compiled is not None:
        return compiled
    peft = sys.modules.get("peft")  # a PeftModel exists only where it was imported
    if peft is not None and isinstance(model, peft.PeftModel):
        base: nn.Module = model.get_base_model()
        return base
    return None
