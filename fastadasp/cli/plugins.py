"""``fastadasp plugins``: what is installed, what each plugin brings, and what is wrong with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fastadasp.cli import options
from fastadasp.cli.terminal import print_listing

if TYPE_CHECKING:
    from fastadasp.registry.registry import PluginRecord

KEYS = ("name", "distribution", "version", "module", "api", "state", "fault", "seconds")


def plugins(as_json: options.Json = False) -> None:
    """List the plugins that are installed: where they come from, what they bring, and what is wrong with them."""
    from fastadasp.strategy import get_registry

    records = get_registry().plugins()
    if as_json:
        listed = [
            {key: getattr(r, key) for key in KEYS}
            | {"hooks": list(r.hooks), "components": [{"kind": c.kind, "name": c.name} for c in r.components]}
            for r in records
        ]
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    lines = [
        [
            r.name,
            f"{r.distribution} {r.version}",
            ", ".join(r.hooks) or "-",
            ", ".join(f"{c.kind} {c.name}" for c in r.components) or "-",
            _state(r),
        ]
        for r in records
    ]
    shown = [[plain(cell) for cell in line] for line in lines]
    print_listing("plugins", ("name", "distribution", "hooks", "brings", "state"), shown)


def plain(text: str) -> str:
    """Text from elsewhere for a table: brackets are no markup, and control characters do not reach a terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def _state(record: PluginRecord) -> str:
    return f"{record.state}: {record.fault}" if record.fault else record.state
