"""Options and fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", default=str(GOLDEN), metavar="DIR", help="folder of golden pairs NAME.json + NAME.safetensors"
    )
