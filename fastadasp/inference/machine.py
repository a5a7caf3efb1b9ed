"""The machine that a model runs on: its name, and its clock."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import torch


def processor() -> str:
    """The processor's name and cores."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def device_name(device: str) -> str:
    """The name of the GPU or processor behind ``cuda`` or ``cpu``."""
    return torch.cuda.get_device_name() if device == "cuda" else processor()


def machine_name(device: str) -> str:
    """What times depend on: the machine, its GPU or processor and, of a processor, the threads that torch takes."""
    threads = "" if device == "cuda" else f", {torch.get_num_threads()} thread(s)"
    return f"{platform.node()}: {device_name(device)}{threads}"


def clock(device: str) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
