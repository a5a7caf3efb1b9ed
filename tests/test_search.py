"""Packages without hooks are searched for components; the hook for components of every kind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from strangers import lay_out

from fastadasp import Merger, PluginError, Schedule, Scorer, hookimpl
from fastadasp.strategy import Registry

SCORER = """
from fastadasp import Scorer
class {title}(Scorer):
    name = "{name}"
    summary = "a scorer"
    gives = ("importance",)
    def importance(self, layer):
        return layer.hidden.float().norm(dim=-1)
"""


def scorer(name: str) -> str:
    return SCORER.format(title=name.title().replace("-", ""), name=name)


def found(folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> Registry:
    """The registry with a package of these files installed, whose entry point names the package."""
    lay_out(folder, "searched", "")
    (folder / "searched.py").unlink()
    (package := folder / "searched").mkdir()
    for name, text in files.items():
        (package / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    for module in [module for module in sys.modules if module.split(".")[0] == "searched"]:
        monkeypatch.delitem(sys.modules, module)
    return Registry()


def names(registry: Registry) -> set[str]:
    return {e.name for e in registry.entries() if e.origin.distribution == "searched"}


def test_every_module_of_a_package_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "__init__.py": scorer("at-the-top"),
        "one.py": scorer("one-below") + "\nfrom fastadasp import Merger as Other  # theirs, not brought\n",
        "_private.py": scorer("left-alone"),
        "two.py": 'RECIPE = {"name": "of-two", "select": "one-below", "merger": "drop", "schedule": "single-shot",'
        ' "layers": "fixed"}',
    }
    registry = found(tmp_path, monkeypatch, files)
    assert names(registry) == {"at-the-top", "one-below", "of-two"}
    assert registry.origin("scorer", "one-below").module == "searched.one"


def test_a_module_that_cannot_be_imported_loses_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"__init__.py": "", "good.py": scorer("still-here"), "torn.py": "import nothing_of_this_name"}
    registry = found(tmp_path, monkeypatch, files)
    assert names(registry) == {"still-here"}
    (problem,) = (p for p in registry.problems if p.distribution == "searched")
    assert "searched.torn" in problem.fault
    assert "nothing_of_this_name" in problem.fault


def test_a_hook_replaces_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = scorer("not-brought") + "\nfrom fastadasp import hookimpl\n@hookimpl\ndef fastadasp_tasks():\n    return []\n"
    assert names(found(tmp_path, monkeypatch, {"__init__.py": top, "one.py": scorer("nor-this")})) == set()


class _Loud(Scorer):
    name = "loud-one"
    gives = ("importance",)

    def importance(self, layer):  # type: ignore[no-untyped-def]
        return layer.hidden.norm(dim=-1)


class _None(Merger):
    name = "takes-none"
    reads = "importance"

    def plan(self, layer, select, weight, remove):  # type: ignore[no-untyped-def]
        raise NotImplementedError


class _Twice(Schedule):
    name = "twice"

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        return (ratio,) * num_layers


class Brings:
    def __init__(self, *items: object) -> None:
        self.items = items

    @hookimpl
    def fastadasp_components(self) -> list[object]:
        return list(self.items)


def test_one_hook_takes_components_of_every_kind() -> None:
    registry = Registry(discover=False)
    registry.register(Brings(_Loud, _None, _Twice), "mixed")
    assert [(e.kind, e.name) for e in registry.entries()] == [
        ("scorer", "loud-one"),
        ("merger", "takes-none"),
        ("schedule", "twice"),
    ]


def test_a_merger_without_a_capacity_keeps_one_token() -> None:
    assert [_None().capacity(tokens) for tokens in (0, 1, 5)] == [0, 0, 4]


@pytest.mark.parametrize("item", [int, {"name": "x"}, None])
def test_the_hook_refuses_what_is_no_component(item: object) -> None:
    with pytest.raises(PluginError, match="is no subclass of Scorer, Merger, Schedule, LayerSelector"):
        Registry(discover=False).register(Brings(item), "wrong")
