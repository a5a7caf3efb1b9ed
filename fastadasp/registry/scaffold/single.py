"""A plugin in one file, to begin with."""

from __future__ import annotations

from pathlib import Path

from fastadasp.errors import RunError
from fastadasp.registry.checks import BASES, name_fault
from fastadasp.registry.registry import get_registry

TEXT = '''"""A method of one's own: how much an audio token differs from the one before."""

from fastadasp import Scorer


class Mine(Scorer):
    """1 - cosine(h_(j-1), h_j), with h the hidden states of a layer; 1 for the first token."""

    name = "{name}"
    summary = "how much a token differs from the one before"
    gives = ("importance",)
    needs = frozenset({{"order"}})

    def importance(self, layer):
        """Scores, float32 [clips, N]; larger is worth more."""
        from fastadasp.ops import cosine_to_next  # loads torch, which listings do without

        change = (1 - cosine_to_next(layer.hidden)).clamp_min(0)
        return change.new_ones(len(change), change.shape[1] + 1).slice_scatter(change, dim=1, start=1)


RECIPE = {{
    "name": "{name}",
    "summary": "tokens that repeat the one before go",
    "source": "an example",
    "budget": 0.5,
    "select": {{"name": "{name}"}},
    "merger": {{"name": "drop"}},
    "schedule": {{"name": "single-shot"}},
    "layers": {{"name": "fixed", "layer": 1}},
}}
'''


def write_single(path: Path) -> None:
    """Writes a file with a scorer and a recipe, both called as the file is.

    Raises:
        RunError: the file exists, cannot be written, or its name will not do for a method.
    """
    name = path.stem.replace("_", "-")
    if path.suffix != ".py":
        raise RunError(f"{path} will not do: the name of a plugin file ends in .py")
    if fault := name_fault(name):
        raise RunError(f"{path} will not do, since its method would be called {name!r}: it {fault}")
    for entry in get_registry().entries():
        if entry.name == name and entry.kind in (*BASES, "strategy"):
            raise RunError(f"{entry.origin} brings a {entry.kind} {name!r} already; take another name")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEXT.format(name=name))
    except FileExistsError:
        raise RunError(f"{path} exists already; it is left as it is") from None
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from None
