"""The site: it builds without a warning, fetches nothing, and has everything that it should."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

import fastadasp
from fastadasp import estimators, ops, testing
from fastadasp.registry.plugin import HOOKS
from fastadasp.strategy import get_registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "reference").glob("*.md")))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Any warning, a broken link or anchor say, fails the build."""
    for package in ("mkdocs", "material", "mkdocstrings_handlers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip('the site needs pip install -e ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/site/mkdocs.yml", "--site-dir", folder]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_has_every_page(site: Path) -> None:
    pages = {page.relative_to(DOCS).with_suffix(".html") for page in (*DOCS.glob("*.md"), *DOCS.glob("reference/*.md"))}
    assert len(pages) > 18
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in pages:
        assert (site / page).is_file()
        assert f'href="{page.as_posix()}"' in start, f"the navigation lacks {page}"
    assert not list(site.rglob("*.py"))


def test_the_site_fetches_nothing(site: Path) -> None:
    """Links may lead elsewhere; scripts, styles, fonts, pictures and connections may not."""
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:link|script|img|iframe|source|video|audio|object|embed|use)\b[^>]*>", html):
            assert not re.search(r'(?:href|src|srcset|data)="?(?:https?:)?//', tag), f"{page.name}: {tag}"
        assert 'class="mermaid"' not in html  # the theme would fetch its renderer
    for style in (*site.rglob("*.css"), *site.rglob("*.svg")):
        content = style.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import|href=)\s*[\"']?(?:https?:)?//", content), style


def test_the_reference_shows_what_is_public(site: Path) -> None:
    page = (site / "reference" / "hooks.html").read_text(encoding="utf-8")
    for hook in HOOKS:
        assert f'id="fastadasp.contracts.hookspecs.{hook}"' in page
    for module in (ops, testing, estimators):
        name = module.__name__
        shown = (site / "reference" / f"{name.split('.')[1]}.html").read_text(encoding="utf-8")
        for public in names_of(module):
            assert f'id="{name}.{public}"' in shown, f"{name}.{public}"


def names_of(module: ModuleType) -> list[str]:
    """Public names of a module: `__all__`, or what it defines."""
    own = [n for n, v in vars(module).items() if not n.startswith("_") and inspect.getmodule(v) is module]
    return list(getattr(module, "__all__", own))


def test_the_reference_names_all_that_is_public() -> None:
    named = set(re.findall(r"^::: fastadasp\.(\w+)$", REFERENCE, re.MULTILINE))
    assert {"ops", "testing", "estimators"} <= named
    assert set(fastadasp.__all__) - {"__version__"} <= named
    hooks = set(re.findall(r"^::: fastadasp\.contracts\.hookspecs\.(fastadasp_\w+)$", REFERENCE, re.MULTILINE))
    assert hooks == set(HOOKS)


def undocumented(name: str, value: object) -> list[str]:
    """A name and the public methods and properties under it that have no docstring of their own or of their base."""
    missing = [] if inspect.getdoc(value) else [name]
    if inspect.isclass(value):
        for member, content in vars(value).items():
            known = isinstance(content, property | classmethod | staticmethod) or inspect.isfunction(content)
            if known and not member.startswith("_") and not inspect.getdoc(getattr(value, member)):
                missing.append(f"{name}.{member}")
    return missing


def test_every_public_name_has_a_docstring() -> None:
    values = {
        name: getattr(fastadasp, name) for name in fastadasp.__all__ if not isinstance(getattr(fastadasp, name), str)
    }
    for path in re.findall(r"^::: (fastadasp\.\w+\.[\w.]+)$", REFERENCE, re.MULTILINE):
        module, _, name = path.rpartition(".")
        value = getattr(importlib.import_module(module), name)
        if inspect.isclass(value) or inspect.isfunction(value):
            values[path] = value
    for module in (ops, testing, estimators):
        values |= {f"{module.__name__}.{name}": getattr(module, name) for name in names_of(module)}
    assert [gap for name, value in values.items() for gap in undocumented(name, value)] == []
    for kind in ("scorer", "merger", "schedule", "layer-selector"):
        for entry in get_registry().entries(kind):
            assert isinstance(entry.value, type)
            assert issubclass(entry.value, BaseModel)
            assert entry.value.__doc__, entry.name


def test_every_field_of_a_recipe_is_explained() -> None:
    attributes = re.findall(r"^        (\w+): ", fastadasp.Strategy.__doc__ or "", re.MULTILINE)
    assert set(fastadasp.Strategy.model_fields) <= set(attributes)


# ---- what is generated ----


def test_the_catalogue_is_made_from_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each strategy has its section, from its recipe as it is; page and curves are as their script writes them."""
    monkeypatch.syspath_prepend(str(DOCS / "figures"))
    files = runpy.run_path(str(DOCS / "figures" / "catalogue.py"))["build"]()
    stale = [path for path, text in files.items() if (DOCS / path).read_text(encoding="utf-8") != text]
    assert stale == [], "python docs/figures/catalogue.py"
    strategies = {e.name for e in get_registry().entries("strategy") if e.origin.distribution == "fastadasp"}
    sections = re.findall(r"^### `(.+)`$", files["catalogue.md"], re.MULTILINE)
    assert sorted(sections) == sorted(strategies)
    curves = {f"figures/{file.name}" for file in (DOCS / "figures").glob("curve-*.svg")}
    assert curves == set(files) - {"catalogue.md", "strategies.md", "models.md"}


def test_the_pictures_of_the_concepts_can_be_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From runs of the embedded model, and those of the counts come out as they stand."""
    monkeypatch.syspath_prepend(str(DOCS / "figures"))
    script = runpy.run_path(str(DOCS / "figures" / "concepts.py"))
    script["main"](tmp_path)
    page = (DOCS / "concepts.md").read_text(encoding="utf-8")
    for picture in script["PICTURES"]:
        assert f"(figures/{picture}.svg)" in page
        assert (tmp_path / f"{picture}.svg").read_text(encoding="utf-8").startswith("<svg")
    for picture in ("prompt", "schedules", "padding"):
        assert (tmp_path / f"{picture}.svg").read_bytes() == (DOCS / "figures" / f"{picture}.svg").read_bytes()
