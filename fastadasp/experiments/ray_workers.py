"""Workers on a Ray cluster: many GPUs, many machines. Ray is an optional extra."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import Any

from fastadasp.errors import RunError
from fastadasp.experiments.records import Result
from fastadasp.experiments.remote import Remote, RemoteExecutor, check_workers, lost
from fastadasp.experiments.worker import Job, Settings
from fastadasp.registry.plugin_files import VARIABLE

REACH = 5.0
"""Seconds in which a cluster's address has to answer."""


class RayExecutor(RemoteExecutor):
    """Runs each cell on one of `workers` actors.

    Args:
        gpus: GPUs of each worker, may be a fraction; None for one where the cluster has any.
        address: of a running cluster (``host:port``, ``ray://host:port`` or ``auto``); None starts one on this machine.

    Raises:
        RunError: Ray is not installed, the cluster does not answer, or it is too small.
    """

    def __init__(self, settings: Settings, workers: int, gpus: float | None, address: str | None) -> None:
        check_workers(workers, gpus)
        super().__init__(settings)
        self._ray = _import_ray()
        self._owns = not self._ray.is_initialized()
        try:
            if self._owns:
                self._connect(workers, address)
            if gpus is None:
                found = self._ray.cluster_resources().get("GPU", 0) > 0 and settings.device != "cpu"
                gpus = 1.0 if found else 0.0
            self._check_size(workers, gpus)
            self._settings = replace(settings, workers=workers, gpus=gpus)
            self._kind: Any = self._ray.remote(num_cpus=1, num_gpus=gpus)(Remote)
            self._idle += [self._kind.remote(self._settings) for _ in range(workers)]
        except BaseException:
            self.close()
            raise

    def submit(self, job: Job) -> None:
        actor = self._idle.pop()
        self._busy[actor.run.remote(job)] = (actor, job)

    def collect(self) -> list[Result]:
        ready, _ = self._ray.wait(list(self._busy), num_returns=1)
        out = []
        for reference in ready:
            actor, job = self._busy.pop(reference)
            try:
                result, fault = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:  # killed, e.g. by the system when memory ran out
                actor = self._kind.remote(self._settings)
                result, fault = lost(job, self.facts(), f"{type(error).__name__}: {_first_line(error)}"), None
            self._idle.append(actor)
            if fault is not None:
                raise RunError(fault)
            out.append(result)
        return out

    def close(self) -> None:
        for actor in [*self._idle, *(actor for actor, _ in self._busy.values())]:
            self._ray.kill(actor)
        self._idle, self._busy = [], {}
        if self._owns:
            self._ray.shutdown()

    def _ask(self, worker: Any, what: str, *arguments: Any) -> Any:
        try:
            found, fault = self._ray.get(getattr(worker, what).remote(*arguments))
        except self._ray.exceptions.RayError as error:
            raise RunError(f"a Ray worker could not start: {_first_line(error)}") from None
        if fault is not None:
            raise RunError(f"on a Ray worker: {fault}")
        return found

    def _connect(self, workers: int, address: str | None) -> None:
        if address is not None:
            _check_reach(address)
        kernels = {name: value for name, value in os.environ.items() if name in ("FASTADASP_KERNELS", VARIABLE)}
        here: dict[str, Any] = {"num_cpus": max(workers, os.cpu_count() or 1), "include_dashboard": False}
        options = here if address is None else {"address": address, "runtime_env": {"env_vars": kernels}}
        try:
            self._ray.init(log_to_driver=False, logging_level="ERROR", **options)
        except Exception as error:  # ConnectionError, ValueError, RuntimeError, or one of its own, by version
            where = "on this machine" if address is None else f"at {address}"
            raise RunError(f"there is no Ray cluster {where}: {_first_line(error)}") from None

    def _check_size(self, workers: int, gpus: float) -> None:
        has = self._ray.cluster_resources()
        for name, wanted in (("CPU", workers), ("GPU", workers * gpus)):
            if wanted > has.get(name, 0):
                raise RunError(
                    f"{workers} workers need {wanted:g} {name}s, but the Ray cluster has {has.get(name, 0):g}; ask for "
                    "fewer --workers or --gpus-per-worker"
                )


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise RunError("--executor ray needs Ray: pip install 'fastadasp[ray]'") from None
    return ray


def _check_reach(address: str) -> None:
    """Asks the address for a connection, since Ray itself would wait for minutes."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise RunError(f"--address is host:port, ray://host:port or auto, not {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=REACH).close()
    except OSError as error:
        raise RunError(f"there is no Ray cluster at {address}: {error.strerror or error}") from None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
