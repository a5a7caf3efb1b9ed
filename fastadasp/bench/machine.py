"""The machine that a measurement was made on: device, clocks, versions and memory."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastadasp.inference.machine import cpu_field, processor_name

_PACKAGES = ("torch", "transformers", "triton", "fastadasp")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def machine(device: str) -> dict[str, Any]:
    """What stands beside every figure: the device and its clocks, threads, versions."""
    import torch

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    if device == "cuda":
        return {"device": torch.cuda.get_device_name(), "clocks": _gpu_clocks(), "threads": None, "versions": versions}
    threads = torch.get_num_threads()
    return {"device": processor_name(), "clocks": _cpu_clock(), "threads": threads, "versions": versions}


def _cpu_clock() -> str:
    clocks = cpu_field("cpu MHz")
    return f"{float(clocks[0]):.0f} MHz" if clocks else "unknown"


def _gpu_clocks() -> str:
    query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,clocks.max.sm", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    sm, memory, top = (part.strip() for part in done.stdout.splitlines()[0].split(","))
    return f"SM {sm} (of {top}), memory {memory}"


def reset_peak(device: str) -> None:
    """Forgets the highest memory so far."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR.exists():
        _CLEAR.write_text("5")


def peak_bytes(device: str) -> int | None:
    """The highest memory since `reset_peak`: allocated on a GPU, resident of this process on a CPU (Linux only)."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    return _resident("VmHWM")


def held_bytes(device: str) -> int | None:
    """Memory now, as `peak_bytes` counts it."""
    if device == "cuda":
        import torch

        return int(torch.cuda.memory_allocated())
    return _resident("VmRSS")


def _resident(name: str) -> int | None:
    if not (_STATUS.exists() and _CLEAR.exists()):
        return None
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return None
