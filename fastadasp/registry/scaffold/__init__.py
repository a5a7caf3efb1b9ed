"""A new plugin: names that can be used, and a package made from a template."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from fastadasp.contracts.hookspecs import API_VERSION, PROJECT
from fastadasp.errors import RunError
from fastadasp.registry.checks import BASES, name_fault
from fastadasp.registry.enabled import normalised
from fastadasp.registry.registry import get_registry

TEMPLATE = Path(__file__).with_name("template")
"""Files to write, each with ``.txt`` appended; what stands in double braces is filled in, in names too."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Names:
    """What a new plugin is called.

    Attributes:
        distribution: as pip knows it.
        package: as Python imports it.
        component: as recipes call its components, each of another kind.
        title: how its classes begin.
    """

    distribution: str
    package: str
    component: str
    title: str

    @classmethod
    def of(cls, name: str) -> Names:
        """The names that follow from `name`. Raises RunError if it is no name of a Python package."""
        if not _NAME.fullmatch(name):
            raise RunError(f"{name!r} is no name of a package: letters and digits, with . - _ between them")
        distribution = normalised(name)
        package = distribution.replace("-", "_")
        component = distribution.removeprefix(f"{PROJECT}-")
        if not package.isidentifier() or keyword.iskeyword(package) or not component[0].isalpha():
            raise RunError(f"{name!r} cannot be imported as {package!r}; begin with a letter, use no word of Python's")
        if fault := name_fault(component):
            raise RunError(f"{name!r} will not do, since its components would be called {component!r}: one {fault}")
        return cls(distribution, package, component, "".join(part.capitalize() for part in component.split("-")))

    def check_free(self) -> None:
        """Raises RunError if anything that is installed has one of these names."""
        installed = {normalised(dist.name): dist.version for dist in importlib.metadata.distributions() if dist.name}
        if self.distribution in installed:
            taken = f"{self.distribution} {installed[self.distribution]}"
            raise RunError(f"a package {taken} is installed already; take another name")
        if self.package in sys.stdlib_module_names or importlib.util.find_spec(self.package) is not None:
            other = f"fastadasp-{self.component}"
            raise RunError(f"there is a module {self.package!r} already; take another name, e.g. {other}")
        for entry in get_registry().entries():
            if entry.name == self.component and entry.kind in (*BASES, "strategy"):
                raise RunError(f"{entry.origin} brings a {entry.kind} {entry.name!r} already; take another name")


def write_plugin(name: str, folder: Path) -> tuple[Path, list[Path]]:
    """Writes a package with a component of each kind, a recipe and tests that pass.

    Args:
        name: of the distribution; its components go without a leading ``fastadasp-``.
        folder: where the package's own folder is made.

    Returns:
        The package's folder, and the files in it.

    Raises:
        RunError: the name is not one or is taken, the package's folder exists, or it cannot be written.
    """
    names = Names.of(name)
    names.check_free()
    target = folder / names.distribution
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}; --path names the folder that {names.distribution} is made in")
    try:
        target.mkdir()
    except FileExistsError:
        raise RunError(f"{target} exists already and is left as it is; take another name or --path") from None
    except OSError as error:
        raise RunError(f"{target} cannot be made: {error.strerror}") from None
    try:
        return target, [_write(source, target, names) for source in sorted(TEMPLATE.rglob("*.txt"))]
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise RunError(f"{target} cannot be written: {error.strerror}; nothing is left of it") from None


def _write(source: Path, target: Path, names: Names) -> Path:
    file = target / _fill(str(source.relative_to(TEMPLATE)).removesuffix(".txt"), names)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_fill(source.read_text(encoding="utf-8"), names), encoding="utf-8")
    return file


def _fill(text: str, names: Names) -> str:
    values = vars(names) | {"api": API_VERSION}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: str(values[found[1]]), text)
