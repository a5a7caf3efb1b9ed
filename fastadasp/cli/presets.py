"""``fastadasp presets``: the comparisons of papers, and what is installed of them."""

from __future__ import annotations

import json
from typing import Any

from fastadasp.cli.options import Json
from fastadasp.cli.terminal import print_listing


def presets(as_json: Json = False) -> None:
    """List the presets of compare: papers' tables, and which of their methods are installed."""
    from fastadasp.experiments.presets import all_presets

    listed: list[dict[str, Any]] = []
    for name, preset in all_presets().items():
        found = {method.title: method.installed() for method in preset.methods}
        listed.append({"name": name, "summary": preset.summary, "tasks": list(preset.tasks), "methods": found})
    if as_json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    lines = []
    for row in listed:
        methods = ", ".join(f"{title}: {here or 'not installed'}" for title, here in row["methods"].items())
        lines.append([row["name"], row["summary"], ", ".join(row["tasks"]), methods])
    print_listing("presets", ("name", "summary", "tasks", "methods"), lines)
