"""Where the cells of a study run: in this process, in several of this machine, or on a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp.errors import RunError, did_you_mean
from fastadasp.experiments.drive import Executor, Local

if TYPE_CHECKING:
    from fastadasp.experiments.study import Options
    from fastadasp.experiments.worker import Worker

EXECUTORS = ("local", "processes", "ray")


def check_executor(how: Options) -> None:
    """Raises RunError for an executor that there is not, or what the executor does not have."""
    if how.executor not in EXECUTORS:
        guess = did_you_mean(how.executor, EXECUTORS)
        raise RunError(f"executor is one of {', '.join(EXECUTORS)}, not {how.executor!r}.{guess}")
    for name, value in {"workers": how.workers, "gpus-per-worker": how.gpus}.items():
        if value is not None and how.executor == "local":
            raise RunError(f"--{name} needs --executor processes (on this machine) or --executor ray (on a cluster)")
    if how.address is not None and how.executor != "ray":
        raise RunError(f"--address is that of a Ray cluster; it needs --executor ray, not {how.executor}")
    if how.engine is not None and how.executor != "local":
        raise RunError(f"engine {how.engine.name} runs with the executor local, not {how.executor}")


def count_workers(how: Options, device: str) -> int:
    """How many cells will run at a time. Raises RunError for more than this machine has GPUs for."""
    if how.executor == "processes":
        from fastadasp.experiments.process_workers import share_out

        return share_out(device, how.workers, how.gpus)[0]
    return 1 if how.executor == "local" else 2 if how.workers is None else how.workers


def make_executor(how: Options, worker: Worker) -> Executor:
    """The executor, whose workers are like `worker` or, in this process, itself. Raises RunError."""
    if how.executor == "local":
        return Local(worker)
    worker.outline = True  # this process runs no cell
    if how.executor == "processes":
        from fastadasp.experiments.process_workers import ProcessExecutor

        return ProcessExecutor(worker.settings, how.workers, how.gpus)
    from fastadasp.experiments.ray_workers import RayExecutor

    return RayExecutor(worker.settings, count_workers(how, worker.settings.device), how.gpus, how.address)
