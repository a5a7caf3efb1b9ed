"""The folder of what can be made again: layers that were chosen, cells of studies, features, recordings of datasets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "FASTADASP_CACHE"
"""The environment variable that names another folder."""


def cache_folder() -> Path:
    """The folder that ``FASTADASP_CACHE`` names, else fastadasp's in the platform's cache."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "fastadasp"
