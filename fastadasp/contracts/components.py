"""The contracts: what a scorer, a merger, a schedule and a layer selector are.

Each is a frozen pydantic model, so its parameters validate, print and hash; each has one job. A plugin subclasses one
of them, sets the class variable ``name`` and returns the class from the matching hook
(`fastadasp.contracts.hookspecs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp.contracts.token_plan import TokenPlan
    from fastadasp.contracts.workload import Workload
    from fastadasp.engine.view import LayerView

ScoreKind = Literal["importance", "affinity"]
Need = Literal["attention", "text", "order", "encoder"]
"""What a component cannot do without: ``attention``, queries and keys of an attention; ``text``, text tokens in the
prompt; ``order``, tokens that still stand in time order, since it compares neighbours or counts places; ``encoder``,
the attention of the audio encoder's last layer."""
Site = Literal["input", "block", "cache"]
"""Where tokens go: ``input``, before a layer's attention; ``block``, between a layer's attention and its MLP;
``cache``, from the keys and values alone."""

Evicts = Literal["audio", "any"]
"""Which keys a cache may lose: ``audio``, those of audio tokens; ``any``, those of text, too."""

Positions = Literal["original", "even", "compact"]
"""The survivors' positions: ``original``, their own; ``even``, at equal steps over their clip's span; ``compact``, the
last positions of the prompt without gaps."""


class Component(BaseModel):
    """A named, immutable, validated part of a strategy.

    Class variables: ``name`` (how recipes call it; lower case with hyphens), ``summary`` (one line for listings), and
    ``formula``, ``source`` and ``cost``, which pages about methods show. They need no annotation. Fields of the
    subclass are its parameters, and a field's ``description`` says what it does.

    Example::

        >>> fastadasp.load_strategy("h2o").merger.parameters()
        {}
        >>> fastadasp.load_strategy("weighted").select.summary
        'cosine of neighbouring keys after rotary embedding, heads concatenated'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    """What it computes, in one line; parts are parted by semicolons."""
    source: ClassVar[str] = ""
    """Where the method comes from: a paper, released code, or "baseline"."""
    cost: ClassVar[str] = ""
    """What it computes beside the model, in multiply-adds, for people; `multiply_adds` counts it."""
    must_define: ClassVar[tuple[str, ...]] = ()
    """Methods that a contract leaves to its subclasses; a contract sets it, a component does not."""

    def parameters(self) -> dict[str, Any]:
        """The parameters by name, as plain Python values that TOML can hold."""
        return self.model_dump(mode="json", exclude_none=True)


class TokenComponent(Component):
    """What scorers and mergers share: they look at tokens, and say what they need to see."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    """What it cannot do without. A strategy needs what its components need."""

    seeded: ClassVar[bool] = False
    """Whether it draws from the strategy's seed, so that several seeds are worth comparing."""

    def needed(self) -> frozenset[Need]:
        """`needs`, for components whose parameters decide it."""
        return self.needs

    def multiply_adds(self, work: Workload) -> int | None:
        """What it computes beside the model, for one clip at one acting layer, in multiply-adds.

        Results take it off what a strategy removes. Sorts, gathers and comparisons are not counted. None, the default,
        means that it is not stated: then results have no net figure for strategies with this component.

        Args:
            work: the clip's lengths and the model's sizes; its methods count what a `LayerView` computes.
        """
        return None


class Scorer(TokenComponent):
    """Says something about audio tokens. Subclasses override one or both methods and list what they give in ``gives``.

    Rows are clips, not samples: a prompt with two recordings has two rows, so nothing is compared across recordings.
    N is the longest clip's number of audio tokens; shorter clips are padded at the end (`LayerView.valid`).

    Example::

        >>> class Loudness(fastadasp.Scorer):
        ...     name = "loudness"
        ...     gives = ("importance",)
        ...     def importance(self, layer):
        ...         return layer.hidden.float().norm(dim=-1)
    """

    gives: ClassVar[tuple[ScoreKind, ...]]
    absolute: ClassVar[bool] = False
    """Whether a score means the same in every clip, as a cosine does and a rank does not: then one threshold can serve
    all clips of a run."""

    def asks_received(self) -> bool:
        """Whether it asks `LayerView.received_attention` of all queries, in every layer that acts.

        A hint and no duty: where the engine can, it takes these sums along as the attention is computed, and need not
        multiply queries and keys once more.
        """
        return False

    def importance(self, layer: LayerView) -> Tensor:
        """One score a token, larger = worth more: float [clips, N]. Padding entries may hold anything."""
        raise TypeError(f"scorer {self.name!r} gives no importance, only {', '.join(self.gives)}")

    def affinity(self, layer: LayerView) -> Tensor:
        """One score a neighbouring pair (i, i+1), larger = joins sooner: float [clips, N - 1]."""
        raise TypeError(f"scorer {self.name!r} gives no affinity, only {', '.join(self.gives)}")


class Merger(TokenComponent):
    """Turns scores and a count of tokens to remove into a token plan.

    Example::

        >>> from fastadasp.ops import clusters_from_kept, largest
        >>> class Keep(fastadasp.Merger):
        ...     name = "keep"
        ...     reads = "importance"
        ...     uses_weight = False
        ...     def plan(self, layer, select, weight, remove):
        ...         kept = largest(select.masked_fill(~layer.valid, float("-inf")), layer.valid.sum(1) - remove)
        ...         return fastadasp.TokenPlan(clusters_from_kept(kept & layer.valid), merges=False)
    """

    must_define = ("plan",)
    reads: ClassVar[ScoreKind]
    """What the recipe's ``select`` scorer must give."""
    uses_weight: ClassVar[bool] = True
    """Whether the recipe's ``weight`` scorer has a meaning here (dropping has no use for it)."""
    exact: ClassVar[bool] = True
    """Whether exactly the tokens asked for go. If not, the engine reads the counts back from the device."""
    across_heads: ClassVar[bool] = False
    """Whether at site ``cache`` the heads of a clip may keep different numbers, which add up to what was asked for."""
    threshold_field: ClassVar[str] = ""
    """The parameter, if there is one, that lets content decide how many tokens go: the larger it is, the fewer. Its
    bounds (``ge`` and ``le`` of its field) are where budgets over a run look for it."""
    sites: ClassVar[tuple[Site, ...]] = ("input", "block")
    """Where it can act. What averages hidden states cannot act in the cache alone."""

    def is_exact(self) -> bool:
        """`exact`, for mergers whose parameters decide it."""
        return self.exact

    def capacity(self, tokens: int) -> int:
        """The most tokens that can go from a clip of `tokens` audio tokens: all but one, unless a merger says less."""
        return max(tokens - 1, 0)

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        """The token plan of one layer.

        Args:
            layer: what the layer knows about the audio tokens; one row a clip (shapes in `LayerView`).
            select: the ``select`` scores, importances [clips, N] or affinities [clips, N-1]. Padding tokens hold +inf
                and pairs that reach into padding -inf, so neither is ever chosen first.
            weight: the ``weight`` importances [clips, N], float32 >= 0, or None for equal weights.
            remove: int64 [clips], how many tokens each clip loses; never above its `capacity`.
        """
        raise NotImplementedError


class Schedule(Component):
    """How one ratio r spreads over the layers.

    Example::

        >>> class Second(fastadasp.Schedule):
        ...     name = "second"
        ...     def ratios(self, ratio, start, num_layers):
        ...         return tuple(ratio if i >= start and i % 2 == 0 else 0.0 for i in range(num_layers))
    """

    must_define = ("ratios",)

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        """The fraction of its current audio tokens that each layer removes.

        Args:
            ratio: the schedule's own r, in [0, 1).
            start: the first acting layer, 0-based, from the layer selector.
            num_layers: decoder layers.

        Returns:
            `num_layers` fractions in [0, 1), rising (weakly) with `ratio` at every layer.
        """
        raise NotImplementedError

    def exit_layer(self, start: int, num_layers: int) -> int | None:
        """The layer, after `start`, at which all audio that is left leaves whatever the budget; None if it stays.

        A budget in tokens counts what is gone before that.
        """
        return None

    def counts(self, tokens: int, ratio: float, start: int, num_layers: int) -> tuple[int, ...] | None:
        """The tokens that a clip of `tokens` has after each layer, for schedules that round in a way of their own.

        Returns:
            `num_layers` numbers from 0 to `tokens` that do not rise; None if they follow from `ratios`.
        """
        return None


class LayerSelector(Component):
    """Chooses the layer the schedule starts at.

    Example::

        >>> class Middle(fastadasp.LayerSelector):
        ...     name = "middle"
        ...     def start_layer(self, num_layers):
        ...         return num_layers // 2
    """

    must_define = ("start_layer",)

    @property
    def needs_calibration(self) -> bool:
        """Whether it has still to see the model at work before it can say a layer."""
        return False

    def start_layer(self, num_layers: int) -> int:
        """The first acting layer, 0-based, in [0, num_layers). Raises StrategyError if it does not fit the model."""
        raise NotImplementedError
