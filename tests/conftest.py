"""Options and fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores; before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", default=str(GOLDEN), metavar="DIR", help="folder of golden pairs NAME.json + NAME.safetensors"
    )


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests keep is not the user's."""
    os.environ["FASTADASP_CACHE"] = str(tmp_path_factory.mktemp("cache"))


SPEED = "speed"
"""Property of a test that is a line of the regression benchmark's table (tests/test_speed.py)."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table of the regression benchmark, from whichever process it ran in."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    lines = [value for report in reports for name, value in report.user_properties if name == SPEED]
    if lines:
        terminalreporter.section("speed: ratios, tests/test_speed.py")
        terminalreporter.line(f"{'measure':<50} {'found':>7} {'least':>7} {'target':>7}")
        for line in lines:
            terminalreporter.line(str(line))
