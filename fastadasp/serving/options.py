"""What a server is told about a strategy, read and checked without the engine that will serve it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastadasp.errors import StrategyError, did_you_mean
from fastadasp.strategy import Strategy, load_strategy

FIELD = "fastadasp"
"""The field of the model's configuration that carries the options."""
PREFIX = "FastAdaSP"
"""Before a family's architecture name: a server without fastadasp refuses it, instead of serving the full model."""
BUDGET = "fastadasp_budget"
"""The budget of one request, among its ``mm_processor_kwargs``."""
ARCHITECTURES = (
    "Qwen2AudioForConditionalGeneration",
    "Qwen2_5OmniForConditionalGeneration",
    "Qwen3ASRForConditionalGeneration",
    "AudioFlamingo3ForConditionalGeneration",
    "GlmAsrForConditionalGeneration",
    "GraniteSpeechForConditionalGeneration",
    "VoxtralForConditionalGeneration",
)
"""Families whose audio can be shortened inside vLLM."""
NOTHING = (0, 0.0, "0")
"""Budgets of a request that is answered by the full model."""
_FIELDS = ("strategy", "budget", "positions")


@contextmanager
def client_faults() -> Iterator[None]:
    """What a request got wrong, as vLLM tells it to the client: a ValueError is HTTP 400, other errors are HTTP 500."""
    try:
        yield
    except StrategyError as error:
        raise ValueError(str(error)) from error


@dataclass(frozen=True)
class Serving:
    """A strategy as a server applies it: at the site ``input``, before layer 0.

    Attributes:
        strategy: the recipe, with the server's budget and positions.
        layers: layers of the decoder.
    """

    strategy: Strategy
    layers: int

    def left(self, tokens: int, budget: Any = None) -> int:
        """Audio tokens left of a clip of `tokens`; `budget` is that of one request, 0 for all. Raises StrategyError."""
        if budget in NOTHING:
            return tokens
        strategy = self.strategy if budget is None else self.strategy.with_budget(budget)
        return strategy.left(tokens, self.layers)


def strategy_for(options: Mapping[str, Any]) -> Strategy:
    """The recipe that the options name, moved before layer 0.

    Args:
        options: ``strategy`` (a name, a TOML file or a table), and, if not the recipe's own, ``budget`` and
            ``positions``.

    Raises:
        StrategyError: an option is missing or unknown, or the recipe has a fault.
    """
    for key in options:
        if key not in _FIELDS:
            raise StrategyError(
                f"unknown serving option {key!r}.{did_you_mean(key, _FIELDS)} Options: {', '.join(_FIELDS)}"
            )
    if "strategy" not in options:
        raise StrategyError("the serving options name no strategy")
    changes = {key: options[key] for key in ("budget", "positions") if options.get(key) is not None}
    return load_strategy(options["strategy"], site="input", layers={"layer": 0}, **changes)


def whole_recipe(strategy: str, changes: Mapping[str, Any]) -> str | dict[str, Any]:
    """A recipe as a server is told it: its name, or all of it where fields change or it is a file of this folder.

    Raises:
        StrategyError: the recipe or a change has a fault.
    """
    if not changes and not strategy.endswith(".toml"):
        return strategy
    return load_strategy(strategy, **changes).to_dict()


def serving(options: Mapping[str, Any], layers: int) -> Serving:
    """The strategy of the options, checked against a decoder of so many layers. Raises StrategyError in a sentence."""
    strategy = strategy_for(options)
    if fault := strategy.why_not_on_features(layers):
        raise StrategyError(f"cannot be served: {fault}")
    return Serving(strategy, layers)


def overrides(options: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """What to change in the model's configuration (vLLM's ``--hf-overrides``) so that the strategy is applied.

    Args:
        options: as for `strategy_for`.
        architecture: the model's own architecture, from its config.json.

    Raises:
        StrategyError: the family cannot be served.
    """
    if architecture not in ARCHITECTURES:
        raise StrategyError(
            f"models of the architecture {architecture!r} cannot be served with a strategy."
            f"{did_you_mean(architecture, ARCHITECTURES)} Architectures: {', '.join(ARCHITECTURES)}"
        )
    return {"architectures": [PREFIX + architecture], FIELD: dict(options)}
