"""``fastadasp tasks``: the tasks that are installed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from fastadasp.cli.options import Json
from fastadasp.cli.terminal import origin_of, print_listing, print_problems, say


def tasks(
    pack: Annotated[
        bool, typer.Option("--pack", help="those of public benchmarks: dataset, split, metric, normaliser, licence")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the tasks that are installed."""
    from fastadasp.strategy import get_registry

    entries = get_registry().entries("task")
    chosen = [entry for entry in entries if bool(getattr(entry.value, "source", "")) == pack]
    listed = []
    for e in chosen:
        task = e.value
        row = {"name": e.name, "kind": task.kind, "metric": task.metric, "summary": task.summary}
        listed.append(row | (_benchmark(task) if pack else {}) | {"origin": origin_of(e.origin)})
    if as_json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    columns = ("name", "metric", "dataset", "licence") if pack else ("name", "kind", "metric", "summary", "origin")
    print_listing("tasks", columns, [[str(row[column] or "-") for column in columns] for row in listed])
    if not pack:
        say(f"{len(entries) - len(chosen)} tasks of public benchmarks: fastadasp tasks --pack")
    print_problems()


def _benchmark(task: Any) -> dict[str, Any]:
    """What is known of a task of a public benchmark."""
    from fastadasp.tasks.sources.address import read_address

    home = None if task.home is None else read_address(task.home)
    return {
        "dataset": home and home.name,
        "configuration": home and home.configuration,
        "split": home and "+".join(home.splits),
        "revision": home and home.revision,
        "normaliser": task.normaliser,
        "prompt": task.instruction,
        "prompts": task.prompts,
        "columns": {meaning: list(n) if isinstance(n, tuple) else n for meaning, n in task.columns.items()},
        "options": list(task.options or task.labels),
        "groups": list(task.groups),
        "licence": task.licence,
        "source": task.source,
    }
