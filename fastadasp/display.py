"""Small tables of HTML, in which everything is escaped, and of Markdown, whose cells stay; differences as text."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def signed(value: float, decimals: int = 1) -> str:
    """A difference with its sign; what rounds to nothing is +0.0, never -0.0."""
    return f"{round(value, decimals) + 0.0:+.{decimals}f}"


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; every cell is text, never markup."""

    def line(tag: str, cells: Sequence[object]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><caption>{html.escape(caption)}</caption>{line('th', head) if head else ''}{body}</table>"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "l") -> list[str]:
    """The lines of a table; cells are Markdown as they are.

    Args:
        align: "l" or "r" for each column; those that it does not reach are "r".
    """

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rules = "".join("---|" if side == "l" else "---:|" for side in align.ljust(len(head), "r"))
    return [line(head), "|" + rules, *map(line, rows)]
