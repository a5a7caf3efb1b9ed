"""Prints the lowest versions that pyproject.toml allows, one ``name==version`` a line, for an environment to test them.

    python tools/lowest.py --extras test > lowest.txt && pip install -r lowest.txt

torch is left out: which builds there are depends on the machine.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def lowest(requirements: list[str], left_out: tuple[str, ...] = ("torch",)) -> list[str]:
    """The lower bound of each requirement that this machine's markers ask for, as an exact pin.

    Raises:
        SystemExit: a requirement has no lower bound.
    """
    pins = []
    for text in requirements:
        wanted = Requirement(text)
        if wanted.name in left_out or (wanted.marker and not wanted.marker.evaluate()):
            continue
        floors = [part.version for part in wanted.specifier if part.operator in (">=", "==")]
        if not floors:
            raise SystemExit(f"{text}: has no lower bound")
        extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
        pins.append(f"{wanted.name}{extras}=={floors[0]}")
    return pins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extras", nargs="*", default=[], help="optional groups whose packages are listed, too")
    options = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in options.extras)]
    print("\n".join(lowest([text for group in groups for text in group])))


if __name__ == "__main__":
    main()
