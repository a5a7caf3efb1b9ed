"""The named recipes, one TOML file a strategy."""

from __future__ import annotations

from pathlib import Path

from fastadasp import hookimpl


@hookimpl
def fastadasp_strategies() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.toml"))
