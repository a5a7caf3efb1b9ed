"""Tasks of public benchmarks, one TOML file each: where the clips lie, what is asked, how answers are scored."""

from __future__ import annotations

from pathlib import Path

from fastadasp.contracts.hookspecs import hookimpl
from fastadasp.contracts.task import Task
from fastadasp.tasks.definition import SUFFIX, read_task

FOLDER = Path(__file__).parent


@hookimpl
def fastadasp_tasks() -> list[Task]:
    return [read_task(path) for path in sorted(FOLDER.glob(f"*{SUFFIX}"))]
