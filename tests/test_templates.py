"""What the templates of new plugins import is there, types included, which no run of them looks at."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from fastadasp.registry.scaffold import TEMPLATE

FILES = sorted(TEMPLATE.parent.rglob("*.py.txt"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_name_that_a_template_imports_is_there(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("{{", "x").replace("}}", "x")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastadasp":
            exec(ast.unparse(node), {})
