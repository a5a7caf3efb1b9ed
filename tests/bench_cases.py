"""What tests of the benchmark share."""

from __future__ import annotations

from typer.testing import CliRunner

import fastadasp
from fastadasp.bench import grid
from fastadasp.bench.shapes import SHAPES
from fastadasp.cli.app import app


def plan(**options: object) -> grid.Plan:
    given = {"shape": SHAPES["tiny"], "seconds": [4], "strategies": ["weighted"], "budgets": ["flops=0.3"], "text": 12}
    return grid.Plan(**given | {"new_tokens": 4, "rounds": 2} | options)  # type: ignore[arg-type]


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["bench", *words])
    if isinstance(result.exception, fastadasp.errors.FastAdaSPError):
        return 2, result.stdout, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


SMALL = ("--seconds", "2,4", "--new-tokens", "3", "--rounds", "1", "--strategies", "weighted")
