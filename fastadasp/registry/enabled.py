"""Which plugins load: the environment variables ``FASTADASP_PLUGINS`` and ``FASTADASP_NO_PLUGINS``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from fastadasp.contracts.hookspecs import PROJECT
from fastadasp.errors import UnknownNameError

if TYPE_CHECKING:
    from fastadasp.registry.plugin import Origin

ONLY, WITHOUT = "FASTADASP_PLUGINS", "FASTADASP_NO_PLUGINS"


def normalised(name: str) -> str:
    """A name as package indexes compare it (PEP 503): lower case, runs of ``-``, ``_`` and ``.`` as one ``-``."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True)
class Enabled:
    """Which of the installed plugins load.

    A name is that of a distribution, of an entry point, or of both (``distribution:entry-point``).

    Attributes:
        only: what loads beside the built-ins; None for everything.
        without: what does not load; built-ins may be named, too.
    """

    only: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls) -> Self:
        """What the two variables say. ``FASTADASP_PLUGINS`` set to nothing leaves the built-ins alone."""
        only = os.environ.get(ONLY)
        return cls(None if only is None else _names(only), _names(os.environ.get(WITHOUT, "")))

    def check(self, origins: Iterable[Origin]) -> None:
        """Raises UnknownNameError for a name that no installed plugin answers to."""
        known = {name for origin in origins for name in _called(origin)}
        shown = {name for name in known if ":" not in name}
        for names, by in ((self.only or (), ONLY), (self.without, f"--no-plugin or {WITHOUT}")):
            for name in names:
                if normalised(name) not in known:
                    raise UnknownNameError("plugin", name, shown, f"It is named by {by}.")

    def reason_against(self, origin: Origin) -> str:
        """Why the plugin is not to load; empty if it is."""
        called = _called(origin)
        if called & {normalised(name) for name in self.without}:
            return f"left out by --no-plugin or {WITHOUT}"
        chosen = self.only is None or origin.distribution == PROJECT
        if not chosen and not called & {normalised(name) for name in self.only or ()}:
            return f"not in {ONLY}"
        return ""


@contextmanager
def leaving_out(names: Iterable[str]) -> Iterator[None]:
    """Inside, ``FASTADASP_NO_PLUGINS`` has these names as well: for registries made here and in child processes."""
    before = os.environ.get(WITHOUT)
    os.environ[WITHOUT] = ",".join([*_names(before or ""), *names])
    try:
        yield
    finally:
        if before is None:
            del os.environ[WITHOUT]
        else:
            os.environ[WITHOUT] = before


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _called(origin: Origin) -> set[str]:
    """What a plugin may be called."""
    distribution, point = normalised(origin.distribution), normalised(origin.entry_point)
    return {distribution, point, f"{distribution}:{point}"}
