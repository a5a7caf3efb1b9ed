"""Python files as plugins."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fastadasp.errors import PluginError, RunError
from fastadasp.registry.plugin_files import adding_files
from fastadasp.registry.scaffold.single import write_single
from fastadasp.strategy import Registry

PAGE = Path(__file__).parents[1] / "docs" / "own-method.md"


def test_components_and_recipes_of_a_file_are_found(tmp_path: Path) -> None:
    write_single(file := tmp_path / "mine.py")
    with adding_files([file]):
        registry = Registry()
    assert registry.get("strategy", "mine").select.name == "mine"
    assert registry.origin("scorer", "mine").distribution == "mine.py"
    assert all(entry.name != "mine" for entry in Registry().entries())


def test_another_content_is_another_version(tmp_path: Path) -> None:
    write_single(file := tmp_path / "mine.py")
    versions = []
    for more in ("", "# changed\n"):
        file.write_text(file.read_text(encoding="utf-8") + more, encoding="utf-8")
        with adding_files([file]):
            versions.append(Registry().origin("scorer", "mine").version)
    assert versions[0] != versions[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [("x = 1", "holds no scorer"), ("x =", "SyntaxError"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_used_is_an_error(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "other.py"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with adding_files([file]), pytest.raises(PluginError, match=words):
        Registry()


def test_a_file_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    write_single(file := tmp_path / "mine.py")
    with pytest.raises(RunError, match="exists already"):
        write_single(file)


def test_the_command_of_the_page_runs(tmp_path: Path) -> None:
    write_single(tmp_path / "mine.py")
    found = re.search(r"^fastadasp (--plugin mine.py .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    done = subprocess.run(
        [sys.executable, "-m", "fastadasp", *shlex.split(found[1])], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ mine +0.5 ", done.stdout, re.MULTILINE)
