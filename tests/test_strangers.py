"""Strangers' packages: broken ones beside sound ones, which of them load, and packages that pip installs."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import run
from strangers import fastadasp, good, lay_out

import fastadasp as package
from fastadasp.contracts.hookspecs import API_VERSION
from fastadasp.registry.plugin import SLOW
from fastadasp.registry.scaffold import Names, write_plugin
from fastadasp.strategy import Registry

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "fastadasp-example"
MAJOR = int(API_VERSION.split(".")[0])

HOOK = "from fastadasp import hookimpl\n@hookimpl\n"
NEWER = f'FASTADASP_API = "{MAJOR + 1}.0"\n'
BROKEN: dict[str, tuple[str, str]] = {
    "import-error": ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    "syntax-error": ("def f(:", "SyntaxError"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "wrong-signature": (HOOK + "def fastadasp_tasks(model): return []", "wrong signature: it asks for 'model'"),
    "unknown-hook": (HOOK + "def fastadasp_task(): return []", "no such hook. Did you mean 'fastadasp_tasks'?"),
    "hook-raises": (HOOK + "def fastadasp_tasks(): raise OSError('no disk')", "raised OSError: no disk"),
    "name-taken": (good("random"), "scorer 'random' from 'name-taken' of name-taken 1.0 (name_taken) is left out: the"),
    "name-of-a-stranger": (good("loudness"), "the name is taken by 'a-sound-one' of a-sound-one 1.0"),
    "bad-recipe": (
        HOOK + "def fastadasp_strategies(): return [{'name': 'x', 'select': 'luck'}]",
        "unknown scorer 'luck'",
    ),
    "newer-interface": (
        NEWER + good("later"),
        f"is made for version {MAJOR + 1}.0 of the plugin interface, and this is",
    ),
    "newer-import": (NEWER + "from fastadasp import Sorcerer", "a newer fastadasp is needed"),
    "newer-typed": (NEWER.replace("API", "API: str") + "import nothing_of_this_name", "a newer fastadasp is needed"),
    "older-interface": (
        f'FASTADASP_API = "{MAJOR - 1}.4"\n' + good("earlier"),
        "look for a newer release of the plugin",
    ),
    "interface-in-words": (
        "FASTADASP_API = 1\n" + good("words"),
        "says FASTADASP_API = 1; it is a version as text, such",
    ),
}
SOUND = {
    "a-sound-one": good("loudness"),
    "slow": f"import time\ntime.sleep({SLOW + 0.1})\n" + good("patience"),
    "talkative": "print('hello from a plugin')\n" + good("talk"),
    "same-interface": f'FASTADASP_API = "{MAJOR}.99"\n' + good("same"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case as a distribution of its own, side by side."""
    folder = tmp_path_factory.mktemp("packages")
    for name, source in SOUND.items():
        lay_out(folder, name, source)
    for name, (source, _) in BROKEN.items():
        lay_out(folder, name, source)
    lay_out(folder, "no-attribute", "", attribute=":plugin")
    lay_out(folder, "half-removed", good("rest"), metadata=False)
    return folder


@pytest.fixture(scope="module")
def listed(folder: Path) -> tuple[dict[str, Any], str]:
    """What ``fastadasp plugins`` finds among them, by entry point, and what it says on stderr."""
    done = fastadasp("plugins", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}, done.stderr


@pytest.mark.parametrize("case", [*BROKEN, "no-attribute"])
def test_a_broken_package_is_named_with_its_fault(case: str, listed: tuple[dict[str, Any], str]) -> None:
    row = listed[0][case]
    assert (row["state"], row["distribution"], row["version"]) == ("broken", case, "1.0")
    said = BROKEN[case][1] if case in BROKEN else "AttributeError"
    assert said in row["fault"]
    assert row["components"] == []


def test_broken_packages_leave_the_others_alone(listed: tuple[dict[str, Any], str]) -> None:
    rows, _ = listed
    mine = {e.name for e in importlib.metadata.entry_points(group="fastadasp") if e.dist and e.dist.name == "fastadasp"}
    assert {name for name, row in rows.items() if row["distribution"] == "fastadasp"} == mine
    for name in (*mine, *SOUND):
        assert (rows[name]["state"], rows[name]["fault"]) == ("loaded", ""), name
    assert rows["a-sound-one"]["components"] == [{"kind": "scorer", "name": "loudness"}]
    assert rows["a-sound-one"]["hooks"] == ["fastadasp_scorers"]
    assert rows["same-interface"]["api"] == f"{MAJOR}.99"
    assert rows["half-removed"]["distribution"] in ("unknown", "none", "half-removed")


def test_what_is_slow_or_talks_is_told_apart_from_the_output(listed: tuple[dict[str, Any], str]) -> None:
    rows, said = listed
    assert rows["slow"]["seconds"] >= SLOW
    assert "plugin 'slow' of slow 1.0 (slow) took 1." in said
    assert "--no-plugin slow leaves it out" in said
    assert "hello from a plugin" in said
    assert said.count(" to import") == 1


def test_the_table_says_why_and_other_commands_go_on(folder: Path) -> None:
    table = fastadasp("plugins", "--no-plugin", "slow", folder=folder)
    assert table.returncode == 0
    for words in (
        "import-error 1.0",
        "broken: cannot be imported",
        "disabled: left out by",
        "fastadasp_scorers",
        "loaded",
    ):
        assert words in table.stdout
    strategies = fastadasp("strategies", "--json", "--no-plugin=slow", folder=folder)
    assert strategies.returncode == 0
    assert "weighted" in {row["name"] for row in json.loads(strategies.stdout)}


# ---- which plugins load ----


def states(registry: Registry) -> dict[str, str]:
    return {f"{p.distribution}:{p.name}": p.state for p in registry.plugins()}


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two strangers, installed here."""
    lay_out(tmp_path, "one-of-two", good("first"))
    lay_out(tmp_path, "two-of-two", good("second"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("FASTADASP_PLUGINS", raising=False)


@pytest.mark.usefixtures("two")
def test_what_the_variables_say_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(states(Registry()).values()) == {"loaded"}
    for value in ("one-of-two", " One_Of.Two ,", "one-of-two:one-of-two", "one-of-two,wavllm"):
        monkeypatch.setenv("FASTADASP_PLUGINS", value)
        registry = Registry()
        off = [name for name, state in states(registry).items() if state != "loaded"]
        assert off == ["two-of-two:two-of-two"]
        (record,) = (p for p in registry.plugins() if p.state == "disabled")
        assert (record.fault, record.components, record.hooks) == ("not in FASTADASP_PLUGINS", (), ())
        with pytest.raises(package.UnknownNameError, match="Disabled plugins: 'two-of-two' of two-of-two"):
            registry.get("scorer", "second")
    monkeypatch.setenv("FASTADASP_PLUGINS", "")
    assert {name.split(":")[0] for name, state in states(Registry()).items() if state == "loaded"} == {"fastadasp"}
    monkeypatch.setenv("FASTADASP_NO_PLUGINS", "wavllm")
    assert states(Registry())["fastadasp:wavllm"] == "disabled"


@pytest.mark.usefixtures("two")
def test_no_plugin_holds_for_one_command() -> None:
    before = states(Registry())
    for arguments in (["--no-plugin", "two-of-two", "plugins"], ["plugins", "--no-plugin=two-of-two", "--json"]):
        assert run(*arguments) == (0, "")
    assert states(Registry()) == before


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plugins", "--no-plugin", "two-of-too"], "unknown plugin 'two-of-too'. Did you mean 'two-of-two'"),
        (["--no-plugin", "wavllm", "--no-plugin", "mdels", "tasks"], "unknown plugin 'mdels'. Did you mean 'models'"),
        (["compare", "--no-plugin", "two-of-two:else"], "It is named by --no-plugin or FASTADASP_NO_PLUGINS"),
        (["compare", "--no-plugin"], "--no-plugin"),
        (["compare", "--no-plugin", "strategies"], "Disabled plugins: 'strategies' of fastadasp"),
    ],
)
def test_wrong_names_of_plugins(arguments: list[str], said: str) -> None:
    code, told = run(*arguments)
    assert (code, said in told) == (2, True), told


def test_a_wrong_name_in_the_environment() -> None:
    done = fastadasp("strategies", FASTADASP_PLUGINS="fastadasp,demmo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: unknown plugin 'demmo'. Did you mean 'demo'" in done.stderr
    assert "It is named by FASTADASP_PLUGINS." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plugin_that_is_registered_by_hand_states_its_version_too() -> None:
    plugin = type("Later", (), {"FASTADASP_API": f"{MAJOR + 1}.0"})()
    with pytest.raises(package.PluginError, match="is made for version"):
        Registry(discover=False).register(plugin)
    assert API_VERSION == package.API_VERSION


# ---- a new plugin ----

WRONG = {
    "a space": (["a b"], "'a b' is no name of a package"),
    "nothing": ([""], "'' is no name of a package"),
    "a hyphen at the end": (["mine-"], "is no name of a package"),
    "a folder": (["../mine"], "is no name of a package"),
    "a digit first": (["3d"], "cannot be imported as '3d'"),
    "a word of Python's": (["class"], "cannot be imported as 'class'"),
    "none": (["fastadasp-none"], "the name 'none', which recipes use"),
    "installed": (["PyTest"], "a package pytest "),
    "itself": (["FastAdaSP"], "a package fastadasp "),
    "a module": (["json"], "there is a module 'json' already; take another name, e.g. fastadasp-json"),
    "names of components": (["fastadasp-random"], "brings a scorer 'random' already"),
    "no folder": (["mine", "--path", "nowhere"], "there is no folder nowhere"),
    "a file": (["mine", "--path", "file"], "there is no folder file"),
    "no name": ([], "Missing argument"),
    "a file in a folder": (["--single", "mine.py", "--path", "sub"], "name the file's folder by --single sub/mine.py"),
}


@pytest.mark.parametrize("case", WRONG)
def test_new_plugins_that_cannot_be(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    arguments, said = WRONG[case]
    code, told = run("new-plugin", *arguments)
    assert (code, said in told) == (2, True), told
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("precious")
    (tmp_path / "other").touch()
    for name in ("mine", "other"):
        code, told = run("new-plugin", name, "--path", str(tmp_path))
        assert (code, "exists already and is left as it is" in told) == (2, True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["README.md"]
    assert (tmp_path / "mine" / "README.md").read_text() == "precious"


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write(path: Path, text: str, **options: Any) -> None:
        written.append(path)
        if len(written) == 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write)
    with pytest.raises(package.RunError, match="No space left on device; nothing is left of it"):
        write_plugin("mine", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_that_follow_from_one() -> None:
    assert Names.of("Fastadasp_Loud.Things") == Names(
        "fastadasp-loud-things", "fastadasp_loud_things", "loud-things", "LoudThings"
    )
    assert Names.of("mine") == Names("mine", "mine", "mine", "Mine")


# ---- packages that pip builds and installs ----

Fresh = Callable[..., subprocess.CompletedProcess[str]]


def pip(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, cwd=cwd, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def build_without_network() -> list[str]:
    """The option for pip where setuptools is here and new enough; else pip fetches it."""
    try:
        new = int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        new = False
    return ["--no-build-isolation"] if new else []


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A fresh environment with the example, a new plugin and a broken one, installed from wheels; and its Python.

    Everything else, fastadasp and torch included, is that of this interpreter.
    """
    folder = tmp_path_factory.mktemp("fresh")
    shutil.copytree(EXAMPLE, folder / "example", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    code, told = run("new-plugin", "fastadasp-fresh", "--path", str(folder))
    assert code == 0, told
    broken = folder / "broken"
    broken.mkdir()
    (broken / "broken_one.py").write_text("import nothing_of_this_name\n")
    (broken / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "broken-one"\nversion = "0.3"\n[project.entry-points.fastadasp]\nbroken = "broken_one"\n'
        '[tool.setuptools]\npy-modules = ["broken_one"]\n'
    )
    sources = [str(folder / name) for name in ("example", "fastadasp-fresh", "broken")]
    pip("wheel", "--quiet", "--no-deps", *build_without_network(), "--wheel-dir", "wheels", *sources, cwd=folder)
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (own,) = (folder / "venv" / "lib").glob("python*/site-packages")
    places = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (own / "rest.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in places))
    wheels = [str(path) for path in (folder / "wheels").glob("*.whl")]
    assert len(wheels) == 3
    pip("--python", str(python), "install", "--quiet", "--no-deps", "--no-index", *wheels, cwd=folder)
    return folder, str(python)


def test_installed_packages_are_listed(fresh: tuple[Path, str]) -> None:
    done = fastadasp("plugins", "--json", python=fresh[1], cwd=fresh[0])
    rows = {row["distribution"]: row for row in json.loads(done.stdout) if row["distribution"] != "fastadasp"}
    assert {name: row["state"] for name, row in rows.items()} == {
        "fastadasp-example": "loaded",
        "fastadasp-fresh": "loaded",
        "broken-one": "broken",
    }
    example = rows["fastadasp-example"]
    assert (example["version"], example["api"], len(example["hooks"])) == ("1.0.0", API_VERSION, 6)
    assert [(c["kind"], c["name"]) for c in example["components"]] == [
        ("scorer", "energy"),
        ("merger", "fuse"),
        ("schedule", "stages"),
        ("layer-selector", "at-depth"),
        ("task", "arousal"),
        ("strategy", "pyramid-fuse"),
    ]
    assert {c["name"] for c in rows["fastadasp-fresh"]["components"]} == {"fresh"}
    assert "No module named 'nothing_of_this_name'" in rows["broken-one"]["fault"]


def test_a_comparison_uses_an_installed_package(fresh: tuple[Path, str]) -> None:
    arguments = ("--strategies", "pyramid-fuse,fresh", "--tasks", "arousal", "--budgets", "0.5", "--limit", "2")
    done = fastadasp("compare", *arguments, "--output", "out", "--json", python=fresh[1], cwd=fresh[0])
    assert done.returncode == 0, done.stderr
    cells = {cell["strategy"]: cell for cell in json.loads(done.stdout)}
    assert set(cells) == {"full", "pyramid-fuse", "fresh"}
    for name in ("pyramid-fuse", "fresh"):
        assert cells[name]["error"] is None
        assert 0.45 < cells[name]["efficiency"]["audio_tokens_removed"] < 0.55
    assert "| pyramid-fuse | 0.5 |" in (fresh[0] / "out" / "table.md").read_text()


def test_the_tests_of_installed_packages_pass(fresh: tuple[Path, str]) -> None:
    """The example's own, and those that a new plugin begins with."""
    command = [fresh[1], "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    tests = ["example/tests", "fastadasp-fresh/tests"]
    done = subprocess.run([*command, *tests], capture_output=True, text=True, cwd=fresh[0], timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "failed" not in done.stdout
    assert "skipped" not in done.stdout
