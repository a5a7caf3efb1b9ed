"""Recipes: which parts make up a strategy, where it acts and how much it removes. Data, not code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from fastadasp.contracts.components import (
    Component,
    Evicts,
    LayerSelector,
    Merger,
    Need,
    Positions,
    Schedule,
    Scorer,
    Site,
)
from fastadasp.counts.budget import Budget
from fastadasp.errors import FastAdaSPError, StrategyError
from fastadasp.recipes import reading
from fastadasp.recipes.reading import (
    Faults,
    build_component,
    explain,
    override,
    read_toml,
    show,
    whole,
)
from fastadasp.registry.checks import name_fault

if TYPE_CHECKING:
    from fastadasp.counts.shape import DecoderShape
    from fastadasp.counts.solve import Solution


class Recipe(BaseModel):
    """A recipe, checked to fit together.

    Fields that hold a component take an object, an installed name, or a table of ``name`` and parameters.

    Attributes:
        name: how people call it.
        summary: one line for listings.
        source: where the method comes from (a paper, a repository).
        select: says which tokens join or go.
        weight: says how much each token counts inside its cluster; None for equally.
        merger: turns scores and a count into a token plan.
        schedule: spreads the budget over the layers.
        layers: says at which layer the schedule starts.
        positions: survivors keep their ``original`` positions, stand evenly over their clip (``even``), or count
            anew (``compact``).
        site: where tokens are removed: ``block``, between a layer's attention and its MLP; ``input``, before the layer
            (before the decoder, at layer 0); ``cache``, from a layer's keys and values alone, each head by itself.
        evicts: at site ``cache``, which keys may go and are counted by a budget in tokens: those of ``audio``, or
            ``any`` of the prompt.
        every: at site ``cache``, after how many tokens of the answer keys go again, so that the budget stays met as it
            grows; None for once, after the prompt.
        then: a second stage at the site ``cache``, with a budget of its own that no override of ``budget`` changes.
        budget: how much to remove; over a run (``mean-tokens``, ``mean-flops``) only where content can decide.
        seed: of everything random.

    Raises:
        StrategyError: on any wrong value, in words.

    Example::

        >>> strategy = fastadasp.load_strategy("weighted", budget=0.5)
        >>> with strategy.apply(model) as trace:
        ...     tokens = model.generate(**inputs, max_new_tokens=2)
        >>> trace.layers[0].audio_tokens > trace.layers[-1].audio_tokens
        True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str = ""
    source: str = ""
    select: Scorer
    weight: Scorer | None = None
    merger: Merger
    schedule: Schedule
    layers: LayerSelector
    positions: Positions = "original"
    site: Site = "block"
    evicts: Evicts = "audio"
    every: Annotated[int, BeforeValidator(whole), Field(ge=1, strict=True)] | None = None
    then: Recipe | None = None
    budget: Budget = Budget(tokens=0.5)
    seed: Annotated[int, BeforeValidator(whole), Field(ge=0, strict=True)] = 0

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            name: str,
            select: Scorer | str | Mapping[str, Any],
            merger: Merger | str | Mapping[str, Any],
            schedule: Schedule | str | Mapping[str, Any],
            layers: LayerSelector | str | Mapping[str, Any],
            weight: Scorer | str | Mapping[str, Any] | None = None,
            summary: str = "",
            source: str = "",
            positions: Positions = "original",
            site: Site = "block",
            evicts: Evicts = "audio",
            every: int | None = None,
            then: Recipe | Mapping[str, Any] | None = None,
            budget: Budget | float | str | Mapping[str, Any] = 0.5,
            seed: int = 0,
        ) -> None: ...

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, file: str | os.PathLike[str] | None = None) -> Self:
        """A strategy from plain values, as `to_dict` gives them. `file` is named in errors."""
        return cls.model_validate(data, context={"file": file})

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Self:
        """A strategy from a recipe file."""
        return cls.from_dict(read_toml(path), file=path)

    def to_dict(self) -> dict[str, Any]:
        """The whole recipe as plain values; fields without content are left out."""
        data = self.model_dump(mode="json", exclude_none=True)
        for part in (data, data.get("then", {})):
            if part.get("evicts") == "audio":  # recipes from before there was a choice have the same hash
                del part["evicts"]
        return {field: value for field, value in data.items() if value != ""}

    def to_toml(self) -> str:
        """The text of a recipe file that reads back to an equal strategy."""
        return tomli_w.dumps(self.to_dict())

    def needs(self) -> frozenset[Need]:
        """What its components cannot do without: ``attention``, ``text``, ``order`` (`components.Need`)."""
        parts = (self.select, self.merger) if self.weight is None else (self.select, self.merger, self.weight)
        own = frozenset[Need]().union(*(part.needed() for part in parts))
        return own if self.then is None else own | self.then.needs()

    def asks_received(self) -> bool:
        """Whether one of its scorers says that it asks for the attention received from all queries."""
        return any(part is not None and part.asks_received() for part in (self.select, self.weight))

    @property
    def seeded(self) -> bool:
        """Whether `seed` makes a difference."""
        return any(part is not None and part.seeded for part in (self.select, self.weight, self.merger)) or (
            self.then is not None and self.then.seeded
        )

    def content_hash(self) -> str:
        """SHA-256 over every field: equal for equal recipes, on every machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def replace(self, **overrides: Any) -> Self:
        """The strategy with some fields changed; `load_strategy` says how overrides are written."""
        return type(self).from_dict(override(self, overrides)) if overrides else self

    def with_budget(self, budget: Budget | float | str) -> Self:
        """The strategy with another budget."""
        return self.replace(budget=budget)

    def solve(self, shape: DecoderShape, text: int, audio: Sequence[int], *, nearest: bool = False) -> Solution:
        """What the budget means for one prompt: the schedule's r, the token counts of each layer, what is removed.

        Args:
            shape: the model's sizes, e.g. ``DecoderShape.of(model.config.text_config)``.
            text: text tokens of the prompt.
            audio: audio tokens of each of its clips.
            nearest: take the nearest whole token count where the prompt is too short to meet a ``flops`` or ``kv``
                budget to 0.2 points, as the engine does.

        Raises:
            StrategyError: the budget cannot be met; says what can be reached.
        """
        from fastadasp.counts.solve import solve

        return solve(self, shape, text, audio, nearest=nearest)

    @property
    def follows_content(self) -> bool:
        """Whether a threshold on scores that compare between clips can decide how many tokens each clip loses."""
        return bool(self.merger.threshold_field) and self.select.absolute and self.site != "cache"

    @property
    def needs_calibration(self) -> bool:
        """Whether the start layer has still to be chosen."""
        return self.layers.needs_calibration

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if fault := name_fault(value):
            raise Faults(f"`name`: the recipe {fault}")
        return value

    @field_validator("select", "weight", "merger", "schedule", "layers", mode="before")
    @classmethod
    def _read_component(cls, value: Any, info: ValidationInfo) -> Component | None:
        if info.field_name == "weight" and (value is None or value == "none"):
            return None
        return build_component(str(info.field_name), value)

    @field_validator("budget", mode="before")
    @classmethod
    def _read_budget(cls, value: Any) -> Budget:
        try:
            return Budget.of(value)
        except StrategyError as error:
            raise Faults(str(error)) from None

    @field_validator("then", mode="before")
    @classmethod
    def _read_then(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        try:
            return cls.from_dict({"name": "then", "site": "cache", **value})
        except StrategyError as error:
            raise Faults(f"`then`: {error}") from None

    @field_serializer("select", "weight", "merger", "schedule", "layers")
    def _write_component(self, value: Component | None) -> dict[str, Any] | None:
        return None if value is None else {"name": value.name, **value.parameters()}

    # Defined before `_say_it_plainly`, which must come last to wrap it.
    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        faults = []
        needed = self.merger.reads
        if needed not in self.select.gives:
            faults.append(
                f"`select`: merger {self.merger.name!r} reads {needed}, but scorer {self.select.name!r} "
                f"gives {reading.gives(self.select)}. Scorers that give {needed}: {reading.scorers(needed)}"
            )
        if self.weight is not None and not self.merger.uses_weight:
            faults.append(
                f"`weight`: merger {self.merger.name!r} averages nothing, so a weight has no meaning; leave it "
                "out (or override it: weight=none)"
            )
        elif self.weight is not None and "importance" not in self.weight.gives:
            faults.append(
                f"`weight` needs importance, but scorer {self.weight.name!r} gives {reading.gives(self.weight)}. "
                f"Scorers that give importance: {reading.scorers('importance')}"
            )
        if self.site not in self.merger.sites:
            faults.append(
                f"`site`: merger {self.merger.name!r} cannot act at {self.site!r}, only at "
                f"{' or '.join(map(repr, self.merger.sites))}. Mergers that can: {reading.mergers(self.site)}"
            )
        if self.site == "cache" and not self.merger.is_exact():
            faults.append(
                f"`merger`: {self.merger.name!r} may remove other counts than asked for; in a cache every head must "
                "keep as many tokens as the others"
            )
        if self.evicts == "any":
            if self.site != "cache":
                faults.append(f"`evicts` speaks of the keys in a cache, but the recipe acts at the site {self.site!r}")
            if unknown := self.needs() & {"text", "encoder"}:
                faults.append(
                    f"`evicts` = 'any' lets text go, too, but its components need {' and '.join(sorted(unknown))}, "
                    "which says nothing of text tokens"
                )
        if self.every is not None:
            faults += reading.why_not_again(self)
        if self.then is not None and (self.site == "cache" or self.then.site != "cache" or self.then.then):
            faults.append("`then`: a second stage acts at the site cache, after a first stage at block or input")
        if self.then is not None and (self.then.budget.per_prompt or self.then.budget.over_run):
            faults.append(f"`then.budget` is {self.then.budget}: the second stage takes tokens or ratio")
        if self.budget.over_run:
            name = self.merger.threshold_field
            if not self.follows_content:
                faults.append(
                    f"`budget`: {self.budget} lets content decide by one threshold for all clips, which merger "
                    f"{self.merger.name!r} with scorer {self.select.name!r} does not have. Strategies that can: "
                    f"{reading.following()}"
                )
            elif getattr(self.merger, name) is not None:
                faults.append(f"`budget`: {self.budget} finds `merger.{name}` by itself; leave it out")
        if faults:
            raise Faults(*faults)
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _say_it_plainly(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        name = data.get("name") if isinstance(data, Mapping) else None
        file = (info.context or {}).get("file")
        recipe = "recipe" if name is None else f"recipe {show(name)}"
        if file is not None:
            recipe += f" ({os.fspath(file)})"
        if not isinstance(data, Mapping | Recipe):
            raise StrategyError(f"{recipe}: a recipe is a table of fields, not {show(data)}")
        try:
            return handler(dict(data) if isinstance(data, Mapping) else data)
        except ValidationError as error:
            faults = explain(error, cls.model_fields, "field")
        except FastAdaSPError as error:
            faults = [str(error)]
        if len(faults) == 1:
            raise StrategyError(f"{recipe}: {faults[0]}")
        listing = "".join(f"\n  - {fault}" for fault in faults)
        raise StrategyError(f"{recipe} has {len(faults)} faults:{listing}")
