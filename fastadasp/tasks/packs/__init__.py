"""Tasks of public benchmarks, one TOML file each: where the clips lie, what is asked, how answers are scored."""

from __future__ import annotations

from pathlib import Path

from fastadasp.contracts.hookspecs import hookimpl
from fastadasp.tasks.definition import SUFFIX, read_task
from fastadasp.tasks.task import Task

FOLDER = Path(__file__).parent


@hookimpl
def fastadasp_tasks() -> list[Task]:
    return [read_task(path) for path in sorted(FOLDER.glob(f"*{SUFFIX}"))]
