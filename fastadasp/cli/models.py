"""``fastadasp models``: which model families work, and why others cannot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastadasp.cli import options
from fastadasp.cli.plugins import plain
from fastadasp.cli.terminal import print_listing, print_problems

if TYPE_CHECKING:
    from fastadasp.contracts.adapter import ModelAdapter


def state(adapter: ModelAdapter) -> str:
    """Whether a family works here, in words for a table."""
    if adapter.refusal:
        return f"no: {adapter.refusal}"
    return "yes" if adapter.is_installed() else "yes, but not in the installed transformers"


def models(as_json: options.Json = False) -> None:
    """List the model families: which work with strategies, and why others cannot."""
    from fastadasp.strategy import get_registry

    entries = get_registry().entries("model")
    listed: list[dict[str, Any]] = [
        {
            "name": e.name,
            "summary": e.value.summary,
            "usable": not e.value.refusal,
            "installed": e.value.is_installed(),
            "reason": e.value.refusal or None,
            "origin": f"{e.origin.distribution} {e.origin.version}",
        }
        for e in sorted(entries, key=lambda e: (bool(e.value.refusal), e.name))
    ]
    if as_json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    states = {e.name: state(e.value) for e in entries}
    lines = [[row["name"], row["summary"], states[row["name"]], row["origin"]] for row in listed]
    shown = [[plain(cell) for cell in line] for line in lines]
    print_listing("models", ("family", "models", "works", "origin"), shown)
    print_problems()
