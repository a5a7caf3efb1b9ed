"""The machine that a model runs on: its name, and its clock."""

from __future__ import annotations

import os
import platform
import time
from functools import cache
from pathlib import Path


def cpu_field(name: str) -> list[str]:
    """What the system says of each core under this name; empty where it says nothing (Linux alone does)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(name)]


@cache
def processor_name() -> str:
    """The processor's name."""
    names = cpu_field("model name")
    return names[0] if names else platform.processor() or platform.machine()


def processor() -> str:
    """The processor's name and cores."""
    return f"{processor_name()}, {os.cpu_count()} cores"


def device_name(device: str) -> str:
    """The name of the GPU or processor behind ``cuda`` or ``cpu``."""
    if device != "cuda":
        return processor()
    import torch

    return torch.cuda.get_device_name()


def machine_name(device: str) -> str:
    """What times depend on: the machine, its GPU or processor and, of a processor, the threads that torch takes."""
    import torch

    threads = "" if device == "cuda" else f", {torch.get_num_threads()} thread(s)"
    return f"{platform.node()}: {device_name(device)}{threads}"


def time_text(seconds: float) -> str:
    """A time for people: milliseconds below a second, three digits."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def clock(device: str) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    wait(device)
    return time.perf_counter()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, on a GPU or elsewhere."""
    import torch

    told = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return told or isinstance(error, MemoryError | torch.OutOfMemoryError)
