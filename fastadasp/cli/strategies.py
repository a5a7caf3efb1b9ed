"""``fastadasp strategies``: the recipes that are installed."""

from __future__ import annotations

import json
from typing import Any

from fastadasp.cli.options import Json
from fastadasp.cli.terminal import origin_of, print_listing, print_problems


def strategies(as_json: Json = False) -> None:
    """List the strategies that are installed, with their parts and origin."""
    from fastadasp.strategy import get_registry

    listed: list[dict[str, Any]] = []
    for entry in get_registry().entries("strategy"):
        recipe = entry.value.to_dict()
        parts = {p: recipe[p]["name"] for p in ("select", "weight", "merger", "schedule", "layers") if recipe.get(p)}
        needs = sorted(entry.value.needs())
        origin = origin_of(entry.origin)
        place = {"site": recipe["site"], "needs": needs, "follows_content": entry.value.follows_content}
        place["origin"] = origin
        listed.append({"name": entry.name, "summary": entry.summary, **parts, **place})
    if as_json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    columns = ("name", "select", "weight", "merger", "schedule", "layers", "site", "needs", "origin")
    shown = [{**row, "needs": ", ".join(row["needs"]) or "-"} for row in listed]
    print_listing("strategies", columns, [[str(row.get(column, "-")) for column in columns] for row in shown])
    print_problems()
