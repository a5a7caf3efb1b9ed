"""Recipes: read, checked, changed, printed."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadasp import (
    Budget,
    LayerSelector,
    Merger,
    Schedule,
    Scorer,
    Strategy,
    StrategyError,
    UnknownNameError,
    hookimpl,
    load_strategy,
)
from fastadasp.strategy import Registry, parse_overrides


class Likeness(Scorer):
    name = "likeness"
    gives = ("affinity",)

    def affinity(self, layer: Any) -> Any:
        return layer


class Worth(Scorer):
    name = "worth"
    gives = ("importance",)
    power: float = 1.0
    heads: tuple[int, ...] = ()

    def importance(self, layer: Any) -> Any:
        return layer


class Join(Merger):
    name = "join"
    reads = "affinity"

    def capacity(self, tokens: int) -> int:
        return tokens - 1

    def plan(self, layer: Any, select: Any, weight: Any, remove: Any) -> Any:
        return None


class Discard(Merger):
    name = "discard"
    reads = "importance"
    uses_weight = False

    def capacity(self, tokens: int) -> int:
        return tokens - 1

    def plan(self, layer: Any, select: Any, weight: Any, remove: Any) -> Any:
        return None


class Early(Discard):
    name = "early"
    needs = frozenset({"order"})
    sites = ("input",)


class Every(Schedule):
    name = "every"

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        return tuple(ratio if i >= start else 0.0 for i in range(num_layers))


class Once(Schedule):
    name = "once"
    most: float = 1.0

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        return tuple(ratio * self.most if i == start else 0.0 for i in range(num_layers))


class Steps(Schedule):
    name = "steps"

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        return (math.floor(ratio * 4) / 4,) + (0.0,) * (num_layers - 1)


class Wrong(Schedule):
    name = "wrong"

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        return (ratio,)


class At(LayerSelector):
    name = "at"
    layer: int = 2
    note: str = ""

    def start_layer(self, num_layers: int) -> int:
        if self.layer < 0:
            raise StrategyError("negative layer")
        return self.layer


RECIPE: dict[str, Any] = {
    "name": "first",
    "summary": "the first",
    "select": "likeness",
    "weight": {"name": "worth", "power": 2.0, "heads": [1, 2]},
    "merger": "join",
    "schedule": "once",
    "layers": {"name": "at", "layer": 3, "note": "here"},
}


class TestPlugin:
    __test__ = False

    @hookimpl
    def fastadasp_scorers(self) -> list[type[Scorer]]:
        return [Likeness, Worth]

    @hookimpl
    def fastadasp_mergers(self) -> list[type[Merger]]:
        return [Join, Discard]

    @hookimpl
    def fastadasp_schedules(self) -> list[type[Schedule]]:
        return [Every, Once, Steps, Wrong]

    @hookimpl
    def fastadasp_layer_selectors(self) -> list[type[LayerSelector]]:
        return [At]

    @hookimpl
    def fastadasp_strategies(self) -> list[dict[str, Any]]:
        return [RECIPE]


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    registry = Registry(discover=False)
    registry.register(TestPlugin())
    with registry.in_use():
        yield registry


@pytest.fixture
def first() -> Strategy:
    return load_strategy("first")


def message(*args: Any, **overrides: Any) -> str:
    with pytest.raises(StrategyError) as caught:
        load_strategy(*args, **overrides)
    text = str(caught.value)
    assert "pydantic" not in text
    assert "validation error" not in text
    return text


# Reading


def test_names_tables_and_objects_make_the_same_strategy(first: Strategy) -> None:
    built = Strategy(
        name="first",
        summary="the first",
        select=Likeness(),
        weight=Worth(power=2.0, heads=(1, 2)),
        merger=Join(),
        schedule=Once(),
        layers=At(layer=3, note="here"),
    )
    assert built == first == load_strategy(first) == load_strategy(RECIPE)
    assert built.content_hash() == first.content_hash() != first.with_budget(0.4).content_hash()
    assert first.budget == Budget(tokens=0.5)
    assert hash(built) == hash(first)


def test_toml_round_trip(first: Strategy, tmp_path: Path) -> None:
    path = tmp_path / "first.toml"
    for strategy in (first, first.replace(ratio=0.3, weight=None, positions="compact", seed=7, source='a "b"\nc')):
        path.write_text(strategy.to_toml())
        assert Strategy.from_toml(path) == load_strategy(path) == load_strategy(str(path)) == strategy
        assert Strategy.from_dict(strategy.to_dict()) == strategy
        assert Strategy.model_validate_json(strategy.model_dump_json()) == strategy
    assert tomllib.loads(first.to_toml())["layers"] == {"name": "at", "layer": 3, "note": "here"}
    assert tomllib.loads(first.to_toml())["budget"] == 0.5


def test_typos_are_all_told_in_one_message(tmp_path: Path) -> None:
    path = tmp_path / "typo.toml"
    path.write_text(
        'name = "typo"\npositons = "compact"\nseed = -1\nbudget = "abc"\n[select]\nname = "likenes"\n'
        '[merger]\nname = "join"\n[schedule]\nname = "once"\nmots = 0.5\n[layers]\nlayer = 2\n'
    )
    text = message(path)
    assert text.startswith(f"recipe 'typo' ({path}) has 6 faults:")
    for part in (
        "`positons`: unknown field. Did you mean 'positions'?",
        "`seed` is -1: should be greater than or equal to 0",
        "budget is the fraction removed: a number above 0 and below 1, not 'abc'",
        "`select`: unknown scorer 'likenes'. Did you mean 'likeness'?",
        "`schedule.mots`: unknown parameter of schedule 'once'. Did you mean 'most'? Allowed: most",
        "`layers` has no name: give layers.name, one of at",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"name = ", "is not valid TOML"), (b"\xff\xfe", "is not valid TOML"), (b"", "`select` is missing")],
)
def test_unreadable_files(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    text = message(path)
    assert said in text
    assert str(path) in text


def test_what_is_no_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert message("gone.toml") == "there is no recipe file 'gone.toml'"
    assert "there is no recipe file 'some/gone'" in message("some/gone")
    assert "cannot be read" in message(tmp_path)
    assert "a strategy is a name, a path, a table or a Strategy, not 3" in message(3)
    with pytest.raises(UnknownNameError, match=r"unknown strategy 'firts'\. Did you mean 'first'"):
        load_strategy("firts")
    (tmp_path / "mine.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match=r"For the file in this folder write 'mine\.toml'"):
        load_strategy("mine")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "A b"}, "the name 'A b'"),
        ({"select": 3}, "`select` is 3: give a scorer's name, a table of its name and parameters, or a Scorer object"),
        ({"select": Likeness}, "`select` is <class"),
        ({"select": Join()}, "`select` is Join()"),
        ({"select": None}, "`select` is None"),
        ({"site": "mlp"}, "`site` is 'mlp': should be 'input', 'block' or 'cache'"),
        ({"seed": True}, "`seed` is True: should be a valid integer"),
        ({"layers": {"layer": "x"}}, "`layers.layer` is 'x': should be a valid integer"),
        ({"budget": {"token": 0.3}}, "budget has no field 'token'. Did you mean 'tokens'?"),
        (
            {"select": "worth"},
            "merger 'join' reads affinity, but scorer 'worth' gives importance. Scorers that give affinity: likeness",
        ),
        ({"weight": "likeness"}, "`weight` needs importance, but scorer 'likeness' gives affinity"),
        ({"merger": "discard", "select": "worth"}, "merger 'discard' averages nothing, so a weight has no meaning"),
        (
            {"merger": Early(), "select": "worth", "weight": None},
            "`site`: merger 'early' cannot act at 'block', only at 'input'. Mergers that can: discard, join",
        ),
    ],
)
def test_wrong_values_are_told_in_words(change: dict[str, Any], said: str) -> None:
    assert said in message("first", **change)
    table = {**RECIPE, **change}
    if "layers" in change:
        table["layers"] = {"name": "at", **change["layers"]}
    with pytest.raises(StrategyError, match="recipe "):
        Strategy(**table)


def test_not_a_table() -> None:
    with pytest.raises(StrategyError, match="a recipe is a table of fields, not 3"):
        Strategy.model_validate(3)


def test_a_strategy_needs_what_its_parts_need(first: Strategy) -> None:
    assert first.needs() == frozenset()
    text = type("Text", (Worth,), {"name": "text", "needs": frozenset({"text"})})
    assert first.replace(weight=text()).needs() == {"text"}
    order = type("Order", (Join,), {"name": "order", "needed": lambda self: frozenset({"order"})})
    assert first.replace(weight=text(), merger=order()).needs() == {"text", "order"}


# Overriding


def test_overrides(first: Strategy) -> None:
    assert load_strategy("first", budget=0.3).budget == Budget(tokens=0.3)
    assert load_strategy("first", ratio=0.3).budget == Budget(ratio=0.3)
    assert load_strategy("first", ratio=0.3).with_budget(0.3) == load_strategy("first", tokens=0.3)
    assert load_strategy("first", **{"budget.ratio": 0.3}).budget == Budget(ratio=0.3)
    assert load_strategy("first", layers={"layer": 5}).layers == At(layer=5, note="here")
    assert load_strategy("first", **{"layers.layer": 5}).layers == At(layer=5, note="here")
    assert load_strategy("first", layers="at").layers == At()
    assert load_strategy("first", weight=None).weight is None
    assert load_strategy("first", weight=None, **{"select.name": "worth", "merger": "discard"}).select == Worth()
    assert load_strategy("first", weight=None).replace(weight={"name": "worth"}).weight == Worth()
    assert first.replace() is first


def test_another_component_starts_from_its_defaults(first: Strategy) -> None:
    other = first.replace(**{"schedule.name": "every", "positions": "compact"})
    assert other.schedule == Every()
    assert other.positions == "compact"
    both = other.replace(**{"schedule.name": "once", "schedule.most": 0.5})
    assert both.schedule == Once(most=0.5) == first.replace(schedule="once", **{"schedule.most": 0.5}).schedule


def test_a_component_that_is_not_installed_can_be_changed(first: Strategy) -> None:
    class Mine(At):
        name = "mine"

    mine = first.replace(layers=Mine(layer=1))
    assert mine.replace(**{"layers.layer": 4}).layers == Mine(layer=4)


def test_overrides_that_make_no_sense() -> None:
    assert "`bugdet`: unknown field. Did you mean 'budget'?" in message("first", bugdet=0.3)
    assert "`budget` is given twice" in message("first", budget=0.3, ratio=0.2)
    assert "`layers` is given twice" in message("first", layers={"layer": 1}, **{"layers.layer": 2})
    assert "write a field or field.parameter" in message("first", **{"layers.a.b": 2})
    assert "`weight` has no name: give weight.name, one of likeness, worth" in message(
        load_strategy("first", weight=None), **{"weight.power": 1.0}
    )


def test_parse_overrides() -> None:
    items = [
        "schedule.name=every",
        "layers.layer = 3",
        "ratio=0.3",
        'summary="a=b"',
        "weight.heads=[1, 2]",
        "source=1979-05-27",
    ]
    assert parse_overrides(items) == {
        "schedule.name": "every",
        "layers.layer": 3,
        "ratio": 0.3,
        "summary": "a=b",
        "weight.heads": [1, 2],
        "source": "1979-05-27",
    }
    strategy = load_strategy("first", **parse_overrides(items))
    assert strategy.schedule == Every()
    assert strategy.weight == Worth(power=2.0, heads=(1, 2))
    assert load_strategy("first", **parse_overrides(["weight=none", "budget=ratio=0.2"])).budget == Budget(ratio=0.2)
    assert parse_overrides(["summary=1\nseed=2"]) == {"summary": "1\nseed=2"}


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["schedule"], "--set 'schedule': write field=value"),
        (["=3"], "write field=value"),
        (["shedule.name=x"], "unknown field 'shedule'. Did you mean 'schedule'?"),
        (["seed=1", "seed=2"], "'seed' is given twice"),
    ],
)
def test_parse_overrides_faults(items: list[str], said: str) -> None:
    with pytest.raises(StrategyError) as caught:
        parse_overrides(items)
    assert said in str(caught.value)


# Budgets

fractions = st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True)


@given(fractions, st.sampled_from(["tokens", "ratio"]))
def test_a_budget_reads_what_it_prints(fraction: float, field: str) -> None:
    budget = Budget(**{field: fraction})
    assert Budget.of(str(budget)) == Budget.of(budget.model_dump()) == Budget.of({field: fraction}) == budget
    assert Budget.of(f"{field} = {fraction!r}") == budget


@pytest.mark.parametrize(
    "value",
    [0, 1, -0.1, 1.5, "abc", "", "0", "50%", True, None, math.nan, math.inf, [0.5], "ratio=2", "ratio=", 10**400],
)
def test_what_is_no_budget(value: Any) -> None:
    with pytest.raises(StrategyError, match="is the fraction removed: a number above 0 and below 1, not"):
        Budget.of(value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [({}, "one of them is needed"), ({"tokens": 0.3, "ratio": 0.3}, "not both"), ({"x": 1}, "no field 'x'")],
)
def test_budgets_of_the_wrong_fields(fields: dict[str, float], said: str) -> None:
    with pytest.raises(StrategyError, match=said):
        Budget(**fields)


def test_budgets_print() -> None:
    assert str(Budget.of(0.5)) == "0.5"
    assert str(Budget.of("ratio=0.3")) == "ratio=0.3"
    assert Budget.of("0.25") == Budget(tokens=0.25)


@given(st.floats(min_value=0.01, max_value=0.99), st.integers(0, 9))
def test_ratio_meets_the_token_budget(goal: float, start: int) -> None:
    for schedule in (Every(), Once()):
        ratio = Budget(tokens=goal).ratio_for(schedule, start, 10)
        left = math.prod(1 - r for r in schedule.ratios(ratio, start, 10))
        assert 1 - left == pytest.approx(goal, abs=1e-9)


def test_ratio_is_exact_where_it_can_be() -> None:
    for percent in range(1, 100):
        assert Budget.of(percent / 100).ratio_for(Once(), 2, 28) == percent / 100
    assert Budget.of("ratio=0.3").ratio_for(Every(), 2, 28) == 0.3
    assert Budget.of(0.5).ratio_for(Every(), 0, 2) == pytest.approx(1 - math.sqrt(0.5), abs=1e-9)


def test_budgets_out_of_reach() -> None:
    with pytest.raises(StrategyError, match=r"'once' from layer 2 of 8 removes at most 0\.5999 of the audio tokens"):
        Budget.of(0.7).ratio_for(Once(most=0.5999), 2, 8)
    with pytest.raises(StrategyError, match=r"jumps from 0\.25 to 0\.5.*set a ratio"):
        Budget.of(0.3).ratio_for(Steps(), 0, 4)
    with pytest.raises(StrategyError, match="schedule 'wrong' is faulty"):
        Budget.of(0.3).ratio_for(Wrong(), 0, 4)
