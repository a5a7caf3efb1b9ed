"""What a run ran on: versions, commit, time."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("fastadasp", "torch", "transformers", "numpy", "jiwer", "sacrebleu")
"""Distributions that results depend on. Their versions are part of every cell's name."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def git_commit() -> str | None:
    """The commit of the checkout this very file is tracked in; None elsewhere."""
    here = Path(__file__)
    try:
        tracked = ["git", "-C", str(here.parent), "ls-files", "--error-unmatch", here.name]
        subprocess.run(tracked, capture_output=True, check=True)
        head = subprocess.run(
            ["git", "-C", str(here.parent), "rev-parse", "HEAD"], capture_output=True, check=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip()


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
