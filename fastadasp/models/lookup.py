"""Which installed adapter a model needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp.contracts.adapter import ModelAdapter
from fastadasp.errors import ModelError
from fastadasp.registry.registry import get_registry

if TYPE_CHECKING:
    from torch import nn


def adapter_for(model: nn.Module) -> ModelAdapter:
    """The adapter of a model's family.

    Raises:
        ModelError: no adapter is installed for its ``model_type``, or the family cannot be used.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind is None:
        raise ModelError(f"{type(model).__name__} is not a transformers model: it has no config.model_type")
    return adapter_of_type(str(kind), type(model).__name__)


def adapter_of_type(kind: str, owner: str) -> ModelAdapter:
    """The adapter for a ``model_type``; `owner` says in messages whose it is. Raises ModelError as `adapter_for`."""
    adapters: dict[str, ModelAdapter] = {entry.name: entry.value for entry in get_registry().entries("model")}
    if kind not in adapters:
        usable = sorted(name for name, adapter in adapters.items() if not adapter.refusal)
        raise ModelError(
            f"{owner} is a model of type {kind!r}, for which there is no adapter; installed: "
            f"{', '.join(usable) or 'none'}. A plugin can add one with the hook fastadasp_models"
        )
    adapters[kind].check_usable()
    return adapters[kind]
