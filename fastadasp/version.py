"""The installed version of this package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The version that the distribution's metadata has; 0.0.0 for a folder that is not installed."""
    try:
        return version("fastadasp")
    except PackageNotFoundError:
        return "0.0.0"
