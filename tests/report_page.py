"""A report's page, read by its tags, and a recording."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import soundfile

from fastadasp.demo import data_path


class Page(HTMLParser):
    """What a browser would find: links, tables, the data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.data: Any = None
        self.tags: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        assert not any(name.startswith("on") for name in given), f"{tag} has a handler of its own"
        self.links += [str(given[name]) for name in ("src", "href") if name in given]
        self._open = "data" if given.get("id") == "data" else tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data: str) -> None:
        if self._open == "data":
            self.data = json.loads(data)
        elif self._open in ("td", "th", "button") and self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


def recording(folder: Path) -> Path:
    wave, rate = soundfile.read(next(data_path().glob("audio/number-*.ogg")))
    soundfile.write(folder / "talk.mp3", wave[: 3 * rate], rate)
    return folder / "talk.mp3"
