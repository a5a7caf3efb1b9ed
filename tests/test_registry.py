"""Plugins: found, named, told apart, and kept from hurting each other."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastadasp
from fastadasp import Merger, PluginError, Scorer, UnknownNameError, hookimpl
from fastadasp.registry.registry import Problem
from fastadasp.strategy import Registry, get_registry

GOOD = """
    from fastadasp import Scorer, hookimpl

    class Loudness(Scorer):
        name = "loudness"
        summary = "how loud"
        gives = ("importance",)
        def importance(self, layer):
            return layer

    @hookimpl
    def fastadasp_scorers():
        return [Loudness]
"""

PARTS = """
    from fastadasp import LayerSelector, Merger, Schedule, hookimpl

    class Glue(Merger):
        name = "glue"
        reads = "importance"
        def capacity(self, tokens):
            return tokens - 1
        def plan(self, layer, select, weight, remove):
            return None

    class Once(Schedule):
        name = "once"
        def ratios(self, ratio, start, num_layers):
            return tuple(ratio if i == start else 0.0 for i in range(num_layers))

    class At(LayerSelector):
        name = "at"
        layer: int = 2
        def start_layer(self, num_layers):
            return self.layer

    @hookimpl
    def fastadasp_mergers():
        return [Glue]

    @hookimpl
    def fastadasp_schedules():
        return [Once]

    @hookimpl
    def fastadasp_layer_selectors():
        return [At]
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Lays out real distributions with entry points, the only ones that are then found."""
    modules: list[str] = []

    def install(source: str, dist: str = "stranger", entry: str = "it", module: str | None = None) -> None:
        module = module or f"mod_{dist.replace('-', '_')}_{entry}"
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        info = tmp_path / f"{dist.replace('-', '_')}-1.2.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n")
        points = info / "entry_points.txt"
        head = points.read_text() if points.exists() else "[fastadasp]\n"
        points.write_text(f"{head}{entry} = {module}\n")

    def entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
        found = importlib.metadata.distributions(path=[str(tmp_path)])
        return [point for dist in found for point in dist.entry_points if point.group == group]

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    yield install
    for module in modules:
        sys.modules.pop(module, None)


def only_problem(registry: Registry) -> Problem:
    assert len(registry.problems) == 1, registry.problems
    return registry.problems[0]


def test_component_knows_its_origin(install: Install) -> None:
    install(GOOD, dist="Loud_Things", module="loud")
    registry = Registry()
    assert registry.problems == ()
    assert registry.get("scorer", "loudness").name == "loudness"
    (entry,) = registry.entries()
    assert (entry.kind, entry.name, entry.summary) == ("scorer", "loudness", "how loud")
    origin = registry.origin("scorer", "loudness")
    assert (origin.distribution, origin.version, origin.module, origin.entry_point) == (
        "loud-things",
        "1.2",
        "loud",
        "it",
    )
    (plugin,) = registry.plugins()
    assert (plugin.state, plugin.hooks, plugin.fault) == ("loaded", ("fastadasp_scorers",), "")
    assert plugin.components == (entry,)


@pytest.mark.parametrize(
    ("source", "hook", "said"),
    [
        ("import nothing_of_this_name", None, "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def f(:", None, "SyntaxError"),
        ("raise SystemExit(3)", None, "SystemExit: 3"),
        ("x = 1", None, "holds no scorer, merger, schedule, layer selector or recipe, and implements no hook"),
        (
            "from fastadasp import hookimpl\n@hookimpl\ndef fastadasp_scorer(): return []",
            "fastadasp_scorer",
            "no such hook. Did you mean 'fastadasp_scorers'?",
        ),
        (
            "from fastadasp import hookimpl\n@hookimpl\ndef fastadasp_tasks(model): return []",
            "fastadasp_tasks",
            "wrong signature: it asks for 'model', but the hook takes no arguments",
        ),
        (
            "from fastadasp import hookimpl\n@hookimpl(wrapper=True)\ndef fastadasp_tasks(): return (yield)",
            "fastadasp_tasks",
            "hook wrapper",
        ),
        ("def fastadasp_tasks(): return []", "fastadasp_tasks", "not marked with @fastadasp.hookimpl"),
        (
            "from fastadasp import hookimpl\n@hookimpl\ndef fastadasp_tasks(): raise OSError('no disk')",
            "fastadasp_tasks",
            "raised OSError: no disk",
        ),
        (
            "from fastadasp import hookimpl\n@hookimpl\ndef fastadasp_tasks(): return 3",
            "fastadasp_tasks",
            "returned an object of type int, not a list",
        ),
        (
            "from fastadasp import hookimpl\n@hookimpl\ndef fastadasp_tasks(): return [3]",
            "fastadasp_tasks",
            "an object of type int is not a Task object",
        ),
        (
            "from fastadasp import hookimpl\n@hookimpl\ndef fastadasp_models(): return [int]",
            "fastadasp_models",
            "class int is not a ModelAdapter object",
        ),
        (
            "from fastadasp import hookimpl\n@hookimpl\ndef fastadasp_strategies(): return [3]",
            "fastadasp_strategies",
            "an object of type int is not a path, a dictionary or a Strategy",
        ),
        (
            "from fastadasp import hookimpl\n@hookimpl\ndef fastadasp_strategies(): return ['/no/such.toml']",
            "fastadasp_strategies",
            "there is no recipe file '/no/such.toml'",
        ),
    ],
)
def test_a_broken_plugin_is_reported_and_the_others_work(
    install: Install, source: str, hook: str | None, said: str
) -> None:
    install(source, dist="broken", entry="bad")
    install(GOOD)
    registry = Registry()
    problem = only_problem(registry)
    assert (problem.plugin, problem.distribution, problem.hook) == ("bad", "broken", hook)
    assert said in problem.fault
    assert "plugin 'bad' of broken 1.2" in str(problem)
    assert registry.get("scorer", "loudness")
    assert {plugin.name: plugin.state for plugin in registry.plugins()} == {"bad": "broken", "it": "loaded"}


def scorer(body: str) -> str:
    return (
        "from fastadasp import Scorer, hookimpl\n"
        f"class S(Scorer):\n    {body}\n"
        "@hookimpl\ndef fastadasp_scorers(): return [S]\n"
    )


def merger(body: str) -> str:
    """A merger plugin whose class has this line in its body."""
    return (
        "from fastadasp import Merger, hookimpl\n"
        f"class M(Merger):\n    name = 'm'; reads = 'affinity'; {body}\n"
        "@hookimpl\ndef fastadasp_mergers(): return [M]\n"
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (scorer("gives = ('importance',); importance = lambda self, layer: 0"), "class S has no `name`"),
        (scorer("name = 'My S'; gives = ('importance',); importance = lambda self, layer: 0"), "lower-case"),
        (scorer("name = 's'"), "must set `gives`"),
        (scorer("name = 's'; gives = ('loudness',)"), "must set `gives`"),
        (scorer("name = 's'; gives = ('affinity',)"), "does not define `affinity`"),
        (
            scorer("name = 's'; gives = ('affinity',); needs = {'order'}"),
            "must set `needs` to a frozenset of 'attention'",
        ),
        (scorer("name = 's'; gives = ('affinity',); needs = frozenset({'luck'})"), "must set `needs`"),
        (merger("sites = 'block'"), "class M must set `sites` to a tuple of 'input' and/or 'block' and/or 'cache'"),
        (merger("sites = ('hall',)"), "must set `sites`"),
        (merger("sites = ()"), "must set `sites`"),
        (merger("needs = None"), "must set `needs`"),
        (
            scorer("name = 's'; gives = ('affinity',); affinity = lambda self: 0"),
            "`affinity` that cannot be called as affinity(self, layer): too many positional arguments",
        ),
        (scorer("pass").replace("[S]", "[Scorer]"), "the contract itself"),
        (scorer("name = 's'; gives = ('affinity',)").replace("[S]", "[S()]"), "is an instance"),
        (scorer("pass").replace("(Scorer)", ""), "class S is not a subclass of Scorer"),
    ],
)
def test_a_component_that_breaks_its_contract_is_reported(install: Install, source: str, said: str) -> None:
    install(source, dist="broken", entry="bad")
    install(GOOD)
    registry = Registry()
    assert said in only_problem(registry).fault
    assert [entry.name for entry in registry.entries("scorer")] == ["loudness"]


def test_the_first_keeps_a_name_and_both_origins_are_told(install: Install) -> None:
    install(GOOD, dist="aardvark")
    install(GOOD, dist="fastadasp")
    registry = Registry()
    assert registry.origin("scorer", "loudness").distribution == "fastadasp"
    problem = only_problem(registry)
    assert problem.distribution == "aardvark"
    assert "of aardvark 1.2" in problem.fault
    assert "taken by 'it' of fastadasp 1.2" in problem.fault


def test_one_bad_hook_leaves_the_plugin_its_good_ones(install: Install) -> None:
    install(textwrap.dedent(GOOD) + "@hookimpl\ndef fastadasp_mergers(): return 1 / 0\n")
    registry = Registry()
    assert registry.get("scorer", "loudness")
    (plugin,) = registry.plugins()
    assert plugin.state == "broken"
    assert "fastadasp_mergers: raised ZeroDivisionError" in plugin.fault


def test_recipes_may_use_any_plugin_and_break_alone(install: Install) -> None:
    recipes = """
        from fastadasp import Strategy, hookimpl

        PARTS = {"merger": "glue", "schedule": "once", "layers": "at"}

        @hookimpl
        def fastadasp_strategies():
            return [
                {"name": "good", "summary": "works", "select": "loudness", **PARTS},
                {"name": "lame", "select": "silence", **PARTS},
                Strategy(name="built", select="loudness", **PARTS),
            ]
    """
    install(recipes, dist="aaa")
    install("import missing_library", dist="silent")
    install(GOOD)
    install(PARTS, dist="parts")
    registry = Registry()
    assert [entry.name for entry in registry.entries("strategy")] == ["built", "good"]
    assert registry.get("strategy", "good").select.name == "loudness"
    with pytest.raises(PluginError, match=r"'lame' is installed but broken.*unknown scorer 'silence'.*missing_library"):
        registry.get("strategy", "lame")
    with pytest.raises(UnknownNameError, match="Did you mean 'good'"):
        registry.get("strategy", "goo")


def test_a_recipe_made_while_plugins_are_imported_says_what_to_do(install: Install) -> None:
    install("from fastadasp import load_strategy\nload_strategy('weighted')")
    assert "name components inside a hook" in only_problem(Registry()).fault


def test_unknown_names_and_kinds(install: Install) -> None:
    install(GOOD)
    install("import missing_library", dist="broken", entry="bad")
    registry = Registry()
    with pytest.raises(UnknownNameError) as caught:
        registry.get("scorer", "loudnes")
    message = str(caught.value)
    assert "unknown scorer 'loudnes'. Did you mean 'loudness'?" in message
    assert "plugin 'bad' of broken 1.2: cannot be imported" in message
    assert "missing_library" in message
    with pytest.raises(UnknownNameError, match="Did you mean 'scorer'"):
        registry.entries("scorers")


def test_get_names_the_fault_of_a_broken_component(install: Install) -> None:
    install(scorer("name = 'mute'; gives = ()"))
    with pytest.raises(PluginError, match=r"scorer 'mute' is installed but broken: plugin 'it'.*must set `gives`"):
        Registry().get("scorer", "mute")


class Plain(Scorer):
    name = "test-plain"
    gives = ("importance",)

    def importance(self, layer: Any) -> Any:
        return layer


class PlainPlugin:
    @hookimpl
    def fastadasp_scorers(self) -> list[type[Scorer]]:
        return [Plain]


def test_register_and_unregister() -> None:
    registry = get_registry()
    assert registry is get_registry()
    before = registry.entries()
    name = registry.register(PlainPlugin())
    try:
        assert registry.get("scorer", "test-plain") is Plain
        assert registry.origin("scorer", "test-plain").module == __name__
        with pytest.raises(PluginError, match="already registered"):
            registry.register(PlainPlugin())
        with pytest.raises(PluginError, match="taken by 'PlainPlugin' of this session"):
            registry.register(PlainPlugin(), name="again")
        assert registry.get("scorer", "test-plain") is Plain
    finally:
        registry.unregister(name)
    assert registry.entries() == before
    with pytest.raises(PluginError, match="PlainPlugin"):
        registry.unregister(name)


def test_register_takes_modules_and_refuses_faulty_plugins_whole() -> None:
    registry = Registry(discover=False)
    module = types.ModuleType("some_module")
    vars(module)["fastadasp_scorers"] = hookimpl(lambda: [Plain])
    vars(module)["fastadasp_mergers"] = hookimpl(lambda: [Merger])
    # The name of a hook implementation is that of the attribute, as pluggy has it.
    with pytest.raises(PluginError, match="fastadasp_mergers: class Merger is the contract itself"):
        registry.register(module)
    assert registry.entries() == []
    assert registry.plugins() == []
    del vars(module)["fastadasp_mergers"]
    assert registry.register(module) == "some_module"
    assert registry.origin("scorer", "test-plain").entry_point == "some_module"


def test_in_use_is_what_get_registry_gives() -> None:
    other = Registry(discover=False)
    with other.in_use():
        assert get_registry() is other
    assert get_registry() is not other


def test_reading_the_registry_does_not_import_torch() -> None:
    code = (
        "import sys, fastadasp; r = fastadasp.get_registry(); r.entries(); r.plugins(); r.problems; "
        "fastadasp.load_strategy; print('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_every_built_in_plugin_loads() -> None:
    built_in = [plugin for plugin in Registry().plugins() if plugin.distribution == "fastadasp"]
    assert [(plugin.name, plugin.fault) for plugin in built_in if plugin.state == "broken"] == []


@pytest.mark.parametrize("name", fastadasp.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(fastadasp, name) is not None


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Scorrer'"):
        _ = fastadasp.Scorrer
