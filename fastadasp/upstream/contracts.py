"""What the engine expects of transformers, as far as signatures and fields show it, checked before a model runs."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import transformers
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel

from fastadasp.errors import ModelError
from fastadasp.upstream.inside import (
    ALL_ATTENTION_FUNCTIONS,
    ALL_MASK_ATTENTION_FUNCTIONS,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    GradientCheckpointingLayer,
    LlamaDecoderLayer,
    LlamaModel,
    StaticLayer,
)
from fastadasp.upstream.names import CACHE, CACHE_NAMES

OLDEST, NEWEST = (5, 17), (5, 24)
"""The releases of transformers that this package was tested with: from the one to the other."""

_MASK = "batch_size q_length kv_length q_offset kv_offset mask_function attention_mask allow_is_causal_skip device"


@cache
def check_transformers() -> None:
    """Checks the installed transformers, once a process.

    Warns if its release was not tested. Raises ModelError if it works in another way than the engine expects.
    """
    version = transformers.__version__
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if not OLDEST <= numbers <= NEWEST:
        warnings.warn(
            f"transformers {version} was not tested with this release of fastadasp; tested are {_tested()}",
            stacklevel=2,
        )
    raise_faults(list(faults()))


def check_decoder(decoder: Any, layer: Any) -> None:
    """Raises ModelError if a model's decoder does not take and hand on the key/value cache as the engine expects."""
    raise_faults([fault for module in (decoder, layer) for fault in _takes_cache(type(module))])


def raise_faults(found: list[str]) -> None:
    """Raises ModelError with what was expected, what there is instead, and what to install."""
    if found:
        newest = f"{NEWEST[0]}.{NEWEST[1] + 1}"
        raise ModelError(
            f"transformers {transformers.__version__} works in another way than fastadasp expects: {'; '.join(found)}. "
            f"Tested are {_tested()}: pip install 'transformers>={OLDEST[0]}.{OLDEST[1]},<{newest}'"
        )


def faults() -> Iterator[str]:
    """A sentence for each expectation that does not hold: what was expected, and what there is instead."""
    for owner in (LlamaModel, LlamaDecoderLayer):
        yield from _takes_cache(owner)
    yield from _has(Cache(layers=[]), "layers", "offloading", "get_seq_length")
    yield from _has(DynamicCache(), "layers", "is_compileable")
    for kind in (DynamicLayer, DynamicSlidingWindowLayer, StaticLayer):
        yield from _takes(kind.update, "key_states", "value_states", name=f"{kind.__name__}.update")
        yield from _has(kind, "get_seq_length", "reset")
    yield from _has(DynamicSlidingWindowLayer(sliding_window=4), "cumulative_length", "sliding_window")
    yield from _has(StaticLayer(max_cache_len=4), "cumulative_length", "max_cache_len", "is_initialized")
    for name in ("sdpa", "eager"):
        if name not in ALL_MASK_ATTENTION_FUNCTIONS:
            yield f"expected a mask function named {name!r}, found {sorted(ALL_MASK_ATTENTION_FUNCTIONS)}"
        else:
            yield from _takes(ALL_MASK_ATTENTION_FUNCTIONS[name], *_MASK.split(), name=f"the mask function {name!r}")
    if "sdpa" not in ALL_ATTENTION_FUNCTIONS:
        yield f"expected an attention function named 'sdpa', found {sorted(ALL_ATTENTION_FUNCTIONS)}"
    else:
        names = ("module", "query", "key", "value", "attention_mask", "scaling")
        yield from _takes(ALL_ATTENTION_FUNCTIONS["sdpa"], *names, name="the attention function 'sdpa'")
    yield from _has(PreTrainedConfig(), "_attn_implementation")
    yield from _has(PreTrainedModel, "loss_function")
    yield from _has(GradientCheckpointingLayer, "gradient_checkpointing")


def _takes_cache(owner: type) -> Iterator[str]:
    """Whether ``forward`` has the cache among its arguments, under the name that outputs have for it, too."""
    parameters = inspect.signature(owner.forward).parameters  # type: ignore[attr-defined]
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not any(name in parameters for name in CACHE_NAMES) and not (
        anything and owner.__module__.split(".")[0] != "transformers"
    ):
        yield (
            f"expected {owner.__name__}.forward to take the key/value cache as {CACHE!r}, "
            f"found the arguments {', '.join(list(parameters)[1:])}"
        )


def _takes(function: Callable[..., Any], *names: str, name: str) -> Iterator[str]:
    parameters = inspect.signature(function).parameters
    missing = [wanted for wanted in names if wanted not in parameters]
    if missing and not (any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and len(missing) < len(names)):
        yield f"expected {name} to take {', '.join(missing)}, found the arguments {', '.join(parameters)}"


def _has(owner: Any, *names: str) -> Iterator[str]:
    title = owner.__name__ if isinstance(owner, type) else type(owner).__name__
    for name in names:
        if not hasattr(owner, name):
            yield f"expected {title} to have {name!r}, found none"


def _tested() -> str:
    return f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
