"""Takes up pages that the navigation does not name, so that a new page needs no line in `mkdocs.yml`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECTION = "Guides"
DECISIONS = "Decisions"


def pages(nav: Any) -> Iterator[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(entry)


def on_config(config: Any) -> Any:
    """Called by MkDocs: appends what lies in the folder itself and has no place yet."""
    named = set(pages(config.nav))
    (guides,) = (entry[SECTION] for entry in config.nav if SECTION in entry)
    folder = Path(config.docs_dir)
    guides += [page.name for page in sorted(folder.glob("*.md")) if page.name not in named]
    config.nav.append({DECISIONS: [str(page.relative_to(folder)) for page in sorted(folder.glob("decisions/*.md"))]})
    return config
