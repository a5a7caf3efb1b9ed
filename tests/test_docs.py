"""The documentation says what the code does: nothing built in is missing, and the examples run as they stand."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import typer

import fastadasp
from fastadasp import testing
from fastadasp.cli.app import app
from fastadasp.contracts import hookspecs
from fastadasp.contracts.hookspecs import API_ATTRIBUTE
from fastadasp.registry import enabled
from fastadasp.registry.checks import BASES
from fastadasp.registry.plugin import HOOKS
from fastadasp.strategy import Registry, get_registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SECTIONS = {
    "Scorers": "scorer",
    "Mergers": "merger",
    "Schedules": "schedule",
    "Layer selectors": "layer-selector",
    "Strategies": "strategy",
}


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def table(page: str, title: str) -> dict[str, list[str]]:
    """The first table of a section: the other cells by the name in the first one."""
    section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = section[section.index("\n|") + 1 :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


def built_in(kind: str) -> dict[str, object]:
    """What comes with fastadasp, by name."""
    entries = get_registry().entries(kind)
    return {entry.name: entry.value for entry in entries if entry.origin.distribution == "fastadasp"}


@pytest.mark.parametrize(("title", "kind"), SECTIONS.items())
def test_strategies_page_has_a_row_for_each_built_in(title: str, kind: str) -> None:
    assert set(table(text("strategies.md"), title)) == set(built_in(kind))


@pytest.mark.parametrize(("title", "kind"), list(SECTIONS.items())[:-1])
def test_each_component_row_names_its_parameters(title: str, kind: str) -> None:
    rows = table(text("strategies.md"), title)
    for name, component in built_in(kind).items():
        assert issubclass(component, fastadasp.Component)
        shown = rows[name][-1]
        for parameter, field in component.model_fields.items():
            default = f'"{field.default}"' if isinstance(field.default, str) else field.default
            assert f"`{parameter}` ({default})" in shown
        if not component.model_fields:
            assert shown == "none"


def test_each_strategy_row_matches_its_recipe() -> None:
    rows = table(text("strategies.md"), "Strategies")
    for name, recipe in built_in("strategy").items():
        assert isinstance(recipe, fastadasp.Strategy)
        parts = (recipe.select, recipe.weight, recipe.merger, recipe.schedule)
        assert rows[name][:4] == ["-" if part is None else f"`{part.name}`" for part in parts]
        layer = f"`{recipe.layers.name}`" if recipe.needs_calibration else str(recipe.layers.parameters()["layer"])
        assert rows[name][4].split(";")[0] == f"`{recipe.site}`, {layer}"
        assert (recipe.positions, recipe.budget.tokens) == ("original", 0.5)  # as the page says of all


def test_strategies_page_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", text("strategies.md"), re.DOTALL)
    exec(compile(block, "docs/strategies.md", "exec"), {})
    shown = tomllib.loads(capsys.readouterr().out)
    assert (shown["budget"], shown["schedule"], shown["layers"]["layer"]) == (0.3, {"name": "decay"}, 4)


def test_models_page_has_a_row_for_each_family() -> None:
    rows = table(text("models.md"), "Families")
    families = built_in("model")
    assert list(rows) == sorted(families, key=lambda name: (bool(families[name].refusal), name))
    for name, adapter in families.items():
        assert rows[name] == [adapter.summary, f"no: {adapter.refusal}" if adapter.refusal else "yes"]


def test_models_page_example_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", text("models.md"), re.DOTALL)
    with Registry().in_use():
        exec(compile(block, "docs/models.md", "exec"), {"__name__": "example"})


def test_methods_of_adapters_are_those_of_the_models_page() -> None:
    page = text("models.md").split("overrides methods in a subclass")[1]
    named = set(re.findall(r"`(\w+)\(", page.split("What every family needs")[0]))
    own = {name for name in vars(fastadasp.ModelAdapter) if not name.startswith("_")}
    assert named <= {name for name in own if callable(getattr(fastadasp.ModelAdapter, name))}


def test_every_hook_is_documented() -> None:
    rows = table(text("writing-a-plugin.md"), "The hooks")
    specified = {name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "fastadasp_spec")}
    assert set(rows) == set(HOOKS) == specified
    for hook, kind in HOOKS.items():
        assert getattr(hookspecs, hook).__doc__
        for method in BASES[kind].must_define if kind in BASES else ():
            assert f"`{method}(" in rows[hook][0]


def test_every_file_of_the_core_has_a_row() -> None:
    page = text("architecture.md")
    for folder in ("", "engine"):
        for file in (ROOT / "fastadasp" / folder).glob("*.py"):
            assert file.name == "__init__.py" or f"| `{file.name}` |" in page, f"docs/architecture.md lacks {file.name}"
    for folder in (ROOT / "fastadasp").iterdir():
        if (folder / "__init__.py").is_file() and folder.name != "engine":
            assert f"| `{folder.name}/` |" in page


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{file.name}" for file in DOCS.glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert target.startswith(("http://", "https://")) or (path.parent / target).exists(), f"{page}: {target}"


def test_plugin_guide_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lays out the guide's package as an installation would, and runs the guide's own test on it."""
    blocks = re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", text("writing-a-plugin.md"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    for name, content in blocks:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    package = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = tmp_path / "fastadasp_loudness-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package['name']}\nVersion: {package['version']}\n")
    points = "".join(f"{name} = {value}\n" for name, value in package["entry-points"]["fastadasp"].items())
    (info / "entry_points.txt").write_text(f"[fastadasp]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))

    registry = Registry()
    assert not registry.problems
    for kind, name in (("scorer", "loudness"), ("strategy", "loud")):
        assert registry.origin(kind, name).distribution == "fastadasp-loudness"
    tests = runpy.run_path(str(tmp_path / "tests" / "test_loudness.py"))
    with registry.in_use():
        assert fastadasp.load_strategy("loud").select.parameters() == {"power": 2.0}
        tests["test_half_of_the_clip_goes_at_layer_2"]()
        tests["test_loudness_keeps_the_contract"]()


def test_the_guide_names_every_check_and_what_chooses_plugins() -> None:
    page = text("writing-a-plugin.md")
    assert set(table(page, "Conformance")) == {name for name in testing.__all__ if name.startswith("check_")}
    for name in ("Prompt", "view_of", "--no-plugin", enabled.ONLY, enabled.WITHOUT, API_ATTRIBUTE, "API_VERSION"):
        assert name in page


def test_every_option_is_documented() -> None:
    """Each command's options stand in the README or on a page of the documentation, next to the command's name."""
    pages = [
        (ROOT / "README.md").read_text(encoding="utf-8"),
        *(p.read_text(encoding="utf-8") for p in DOCS.glob("*.md")),
    ]
    commands = typer.main.get_command(app)
    missing = []
    for name, command in commands.commands.items():  # type: ignore[attr-defined]
        about = "\n".join(page for page in pages if f"fastadasp {name}" in page)
        for parameter in command.params:
            options = [option for option in parameter.opts if option.startswith("--") and option != "--help"]
            if options and not any(re.search(rf"(?<![\w-]){option}(?![\w-])", about) for option in options):
                missing.append(f"fastadasp {name} {options[0]}")
    assert missing == []
