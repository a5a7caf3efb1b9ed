"""Options and fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores; before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from speed_table import print_table

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_KV = Path(__file__).parent / "golden_kv"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", default=str(GOLDEN), metavar="DIR", help="folder of golden pairs NAME.json + NAME.safetensors"
    )
    parser.addoption("--golden-kv", default=str(GOLDEN_KV), metavar="DIR", help="folder of golden pairs of kvpress")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests keep is not the user's."""
    os.environ["FASTADASP_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_grad(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing is differentiated but in tests of gradients."""
    import torch

    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    print_table(terminalreporter)
