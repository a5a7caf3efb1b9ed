"""What all pages have in common: one head, one style. A page is one HTML file that needs nothing beside it."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Any

from fastadasp.version import installed_version

HOME = "fastadasp.report"


def render(template: str, data: dict[str, Any] | None, *, package: str = HOME, **values: Any) -> str:
    """A page from a template, with the common style inside. Whatever is put in is escaped.

    Args:
        template: a file in `templates` of the package.
        data: what the report's script draws from; None for a page without a script.
        package: where the template lies; its ``templates/own.css``, if there is one, comes after the common style.
        values: what the template shows.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    loader = ChoiceLoader([PackageLoader(package), PackageLoader(HOME)])
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    room, own = files(HOME) / "templates", files(package) / "templates" / "own.css"
    style = (room / "page.css").read_text(encoding="utf-8")
    return pages.get_template(template).render(
        version=installed_version(),
        style=style + (own.read_text(encoding="utf-8") if own.is_file() else ""),
        script=None if data is None else (room / "page.js").read_text(encoding="utf-8"),
        data=None if data is None else _safe(data),
        **values,
    )


def _safe(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(data: Any) -> Any:
    """The same with null for numbers that JSON has no word for, which a task's metric may be."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
