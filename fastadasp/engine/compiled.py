"""Compiled models: they run uncompiled for as long as a strategy is applied."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


def without_compilation(model: nn.Module) -> AbstractContextManager[Any]:
    """While open, what was compiled runs as written. Compiled code would not see hooks set after its compilation."""
    return torch.compiler.set_stance("force_eager") if _is_compiled(model) else nullcontext()


def _is_compiled(model: nn.Module) -> bool:
    """Whether `model`, one of its modules or a module's ``forward`` was given to `torch.compile`."""
    return any(
        hasattr(module, "_orig_mod")
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
        for module in model.modules()
    )
