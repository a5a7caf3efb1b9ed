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


def _encoder(row: dict[str, Any]) -> str:
    """Whether strategies see the encoder's attention, for the table."""
    return "-" if not row["usable"] else "yes" if row["encoder_attention"] else "no"


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
            "encoder_attention": bool(e.value.encoder_paths),
            "encoder_reason": e.value.encoder_refusal or None,
            "origin": f"{e.origin.distribution} {e.origin.version}",
        }
        for e in sorted(entries, key=lambda e: (bool(e.value.refusal), e.name))
    ]
    if as_json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    states = {e.name: state(e.value) for e in entries}
    lines = [[r["name"], r["summary"], states[r["name"]], _encoder(r), r["origin"]] for r in listed]
    shown = [[plain(cell) for cell in line] for line in lines]
    print_listing("models", ("family", "models", "works", "encoder seen", "origin"), shown)
    print_problems()
