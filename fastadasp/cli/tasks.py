"""``fastadasp tasks``: the tasks that are installed."""

from __future__ import annotations

import json

from fastadasp.cli.options import Json
from fastadasp.cli.terminal import origin_of, print_listing, print_problems


def tasks(as_json: Json = False) -> None:
    """List the tasks that are installed."""
    from fastadasp.strategy import get_registry

    listed = [
        {
            "name": e.name,
            "kind": e.value.kind,
            "metric": e.value.metric,
            "summary": e.value.summary,
            "origin": origin_of(e.origin),
        }
        for e in get_registry().entries("task")
    ]
    if as_json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    columns = ("name", "kind", "metric", "summary", "origin")
    print_listing("tasks", columns, [[row[column] for column in columns] for row in listed])
    print_problems()
