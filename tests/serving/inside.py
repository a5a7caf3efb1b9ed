"""How the tests run something beside vLLM: in a process of its own, quiet, with nothing downloaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastadasp.serving.vllm import fault

HERE = Path(__file__).parent
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else all engines of this machine share one core
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
MARKS = [pytest.mark.vllm, pytest.mark.skipif(fault() is not None, reason=str(fault()))]


def started(script: str, *given: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    """The finished process of a script beside this file; it is given JSON."""
    return subprocess.run(
        [sys.executable, str(HERE / script), *(json.dumps(value) for value in given)],
        env=os.environ | QUIET | environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip


def results(script: str, *given: Any, **environment: str) -> list[Any]:
    """What a script printed as lines of results; the end of its output is shown where there are none."""
    done = started(script, *given, **environment)
    found = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert found, done.stdout[-3000:] + done.stderr[-3000:]
    return [json.loads(line) for line in found]


def end(engine: Any) -> None:
    """Lets the next engine of vLLM start in this process."""
    from vllm.distributed import cleanup_dist_env_and_memory

    engine.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()
