"""The arrows between the rooms, read from the source: see docs/architecture.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fastadasp.strategy import get_registry

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "fastadasp": ROOT / "fastadasp",
    "fastadasp_plugins": ROOT / "plugins",
    "fastadasp_strategies": ROOT / "strategies",
}
ROOMS = (
    "fastadasp",  # the package itself: public names, each looked up when it is asked for
    "__main__",
    "cli",
    "leaderboard",
    "runs",
    "report",
    "bench",
    "serving",
    "testing",
    "harness",
    "testbed",
    "convert",
    "transcribe",
    "experiments",
    "usual",
    "samples",
    "demo",
    "strategy",
    "features",
    "selection",
    "inference",
    "engine",
    "models",
    "tasks",
    "recipes",
    "registry",
    "counts",
    "contracts",
    "ops",
    "kernels",
    "upstream",
    "estimators",
    "audio",
    "files",
    "display",
    "errors",
    "version",
)
"""Every room of the core, from top to bottom. A room imports only from rooms below it."""
PUBLIC = {"fastadasp", "fastadasp.ops", "fastadasp.estimators"}
LONGEST = 350


@dataclass(frozen=True)
class Import:
    """One import: from where, of what, and when it happens."""

    where: str
    target: str
    typing: bool
    """Under ``if TYPE_CHECKING``: it never happens."""
    lazy: bool
    """Inside a function: it happens when that runs."""


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the three packages, with its import name."""
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *(part for part in parts if part != "__init__"))), path


def imports(where: str, node: ast.AST, typing: bool = False, lazy: bool = False) -> Iterator[Import]:
    """The imports below `node`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(where, alias.name, typing, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{where}: imports are absolute here"
            # `from fastadasp import demo` imports a module, `from fastadasp import Scorer` a name of the package
            names = [f"{child.module}.{alias.name}" for alias in child.names]
            targets = [name for name in names if name in MODULES]
            if len(targets) < len(names):
                targets.append(str(child.module))
            yield from (Import(where, target, typing, lazy) for target in targets)
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for part in child.body:
                yield from imports(where, ast.Module([part], []), True, lazy)
            for part in child.orelse:
                yield from imports(where, ast.Module([part], []), typing, lazy)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(where, child, typing, lazy or inside)


MODULES = {name for name, _ in modules()}
IMPORTS = [found for name, path in modules() for found in imports(name, ast.parse(path.read_text(encoding="utf-8")))]


def under(name: str, *rooms: str) -> bool:
    """Whether a module lies in one of these rooms of the core."""
    return any(name == f"fastadasp.{room}" or name.startswith(f"fastadasp.{room}.") for room in rooms)


def offenders(*rooms: str, banned: tuple[str, ...], lazy: bool = True) -> list[str]:
    """Imports at run time from `rooms` into `banned` ones; with `lazy=False` only those at the top of a file."""
    return [
        f"{i.where} imports {i.target}"
        for i in IMPORTS
        if under(i.where, *rooms) and under(i.target, *banned) and not i.typing and (lazy or not i.lazy)
    ]


def test_the_core_imports_no_method() -> None:
    packages = ("fastadasp_plugins", "fastadasp_strategies", "plugins", "strategies")
    assert [i for i in IMPORTS if i.where.startswith("fastadasp.") and i.target.split(".")[0] in packages] == []


def room_of(module: str) -> str:
    """The room of the core that a module lies in: the folder or file at the package's door."""
    return module.split(".")[1] if "." in module else module


def arrows() -> dict[str, set[str]]:
    """Which rooms each room imports, inside functions too; not for types alone."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for i in IMPORTS:
        if i.where.split(".")[0] == i.target.split(".")[0] == "fastadasp" and not i.typing:
            found.setdefault(room_of(i.where), set()).add(room_of(i.target))
    return {room: targets - {room} for room, targets in found.items()}


def test_every_room_has_a_place() -> None:
    assert {room_of(name) for name, _ in modules() if name.split(".")[0] == "fastadasp"} == set(ROOMS)


def test_imports_go_down() -> None:
    upwards = [f"{room} imports {to}" for room, targets in arrows().items() for to in targets if not below(to, room)]
    assert upwards == []


def below(lower: str, upper: str) -> bool:
    return ROOMS.index(lower) > ROOMS.index(upper)


def drawing() -> str:
    """The rooms from top to bottom, each with those that it imports."""
    wide = max(map(len, ROOMS)) + 2
    lines = [
        f"    {room:<{wide}}{' '.join(sorted(targets, key=ROOMS.index))}".rstrip() for room, targets in arrows().items()
    ]
    return "\n".join(lines)


def test_the_picture_is_drawn_from_the_imports() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert drawing() in page, f"docs/architecture.md needs this picture:\n{drawing()}"


def test_a_strategy_loads_the_engine_only_when_applied() -> None:
    assert offenders("strategy", banned=("engine", "experiments", "tasks", "demo", "cli"), lazy=False) == []


def test_kernels_are_loaded_only_where_they_are_chosen() -> None:
    # compiled only where they are chosen: no import of the kernels at the top of any file
    assert [i for i in IMPORTS if i.target.startswith("triton") and not under(i.where, "kernels.triton_kernels")] == []


def test_layer_selection_is_loaded_only_where_it_is_asked_for() -> None:
    assert offenders("strategy", banned=("selection",), lazy=False) == []


def test_conversion_stands_apart() -> None:
    assert offenders("convert", banned=("engine", "experiments", "tasks", "strategy", "selection", "demo")) == []
    assert [i for i in IMPORTS if under(i.target, "convert") and not under(i.where, "convert", "cli")] == []


def test_the_demo_is_a_guest_like_any_other() -> None:
    assert offenders("demo", banned=("engine", "models", "strategy", "selection")) == []


def test_conformance_checks_look_on_from_outside() -> None:
    assert [i for i in IMPORTS if under(i.target, "testing") and not under(i.where, "testing")] == []


def test_the_estimators_stand_alone() -> None:
    ours = {i.target for i in IMPORTS if under(i.where, "estimators") and i.target.startswith("fastadasp")}
    assert {target for target in ours if not under(target, "estimators")} == {"fastadasp.errors"}


@pytest.mark.parametrize("package", ["fastadasp_plugins", "fastadasp_strategies"])
def test_methods_use_the_public_api_alone(package: str) -> None:
    for i in IMPORTS:
        if i.where.split(".")[0] == package and i.target.split(".")[0].startswith("fastadasp"):
            allowed = PUBLIC | {"fastadasp.contracts.components"} if i.typing else PUBLIC
            assert i.target in allowed, f"{i.where} imports {i.target}"


NAMELESS = ("strategy", "engine", "models", "tasks", "experiments", "selection", "testing", "report")


def test_the_engine_and_contracts_name_no_method() -> None:
    """No string of theirs is the name of a component or recipe that `plugins` or `strategies` bring."""
    names = {e.name for e in get_registry().entries() if e.origin.module.split(".")[0] in list(PACKAGES)[1:]}
    assert len(names) >= 13
    for name, path in modules():
        if under(name, *NAMELESS):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant):
                    assert node.value not in names, f"{name}, line {node.lineno}: {node.value!r}"


HEAVY = ("torch", "transformers", "sklearn", "scipy", "matplotlib", "datasets", "ray", "pandas", "numba", "librosa")
"""Packages that take a good part of a second to import: no listing waits for one."""


@pytest.mark.parametrize("listing", ["strategies", "tasks"])
def test_listing_imports_nothing_heavy(listing: str) -> None:
    code = (
        f"import sys; sys.argv = ['fastadasp', {listing!r}, '--json']\n"
        "from fastadasp.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout) > 100
    assert done.stderr.strip() == ""


def test_listing_needs_no_torch() -> None:
    code = (
        "import sys, fastadasp.cli.app; from fastadasp.strategy import get_registry; get_registry().entries(); "
        "print(*sorted({'torch', 'transformers', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_files_stay_short(name: str, path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_the_inside_of_transformers_is_taken_in_one_room() -> None:
    """Beyond transformers' top level, names of its modules and of arguments that it has renamed stand in `upstream`."""
    inside = [i for i in IMPORTS if i.target.startswith("transformers.") and not under(i.where, "upstream")]
    assert inside == []
    renamed = ("past_key_values", "past_key_value", "cache_params")
    for name, path in modules():
        if not under(name, "upstream"):
            assert not [word for word in renamed if word in path.read_text(encoding="utf-8")], name


def reached(*modules: str) -> set[str]:
    """The modules of the core that these import, and those in turn, inside functions too."""
    found, todo = set[str](), list(modules)
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            todo += [i.target for i in IMPORTS if i.where == module and not i.typing and under(i.target, *ROOMS)]
    return found


@pytest.mark.parametrize("engine", ["fastadasp.inference.runner", "fastadasp.serving.vllm.runner"])
def test_every_source_that_a_cell_runs_through_is_part_of_its_name(engine: str) -> None:
    from fastadasp.experiments import identity

    files = {name: path for name, path in modules() if name.startswith("fastadasp.")}
    hashed = set(identity.sources(engine))
    naming = {"fastadasp.experiments.identity", "fastadasp.experiments.about"}  # they name cells, they run none
    # What plugins may import counts, too.
    start = ("fastadasp.experiments.worker", "fastadasp.ops", "fastadasp.estimators", engine)
    missing = {name for name in reached(*start) - naming if name in files and files[name] not in hashed}
    assert missing == set()
    assert files["fastadasp.inference.clips"] in hashed


def test_cells_of_transformers_outlive_an_edit_of_what_serves() -> None:
    from fastadasp.experiments import identity

    plain, served = (set(identity.sources(f"fastadasp.{room}.runner")) for room in ("inference", "serving.vllm"))
    assert plain < served
    assert {path.relative_to(ROOT).parts[1] for path in served - plain} == {"serving"}
    assert len({identity.hash_code(f"fastadasp.{room}.runner") for room in ("inference", "serving.vllm")}) == 2
