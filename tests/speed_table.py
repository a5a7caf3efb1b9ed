"""The table of the regression benchmark, printed at the end from whichever process the benchmark ran in."""

from __future__ import annotations

import pytest

SPEED = "speed"
"""Property of a test that is a line of the table."""


def print_table(reporter: pytest.TerminalReporter) -> None:
    """Prints what tests/test_speed.py found, if it ran."""
    reports = [report for kind in ("passed", "failed") for report in reporter.stats.get(kind, [])]
    lines = [value for report in reports for name, value in report.user_properties if name == SPEED]
    if lines:
        reporter.section("speed: ratios, tests/test_speed.py")
        reporter.line(f"{'measure':<50} {'found':>7} {'least':>7} {'target':>7}")
        for line in lines:
            reporter.line(str(line))
