"""SVG by hand: shapes and words on no ground of their own, in colours for light and dark pages alike."""

from __future__ import annotations

from html import escape

STYLE = """
text{font:12px system-ui,sans-serif;fill:#1f2328}.soft{fill:#59636e}.line{stroke:#8c959f}.faint{stroke:#d0d7de}
.audio{fill:#4f6bed}.text{fill:#8c959f}.gone{fill:none;stroke:#8c959f;stroke-dasharray:2 2}.on{fill:#fff}
.a{stroke:#4f6bed}.b{stroke:#c2571a}.c{stroke:#1a7f4b}.fa{fill:#4f6bed}.fb{fill:#c2571a}.fc{fill:#1a7f4b}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.soft{fill:#9da7b3}.line{stroke:#7d8590}.faint{stroke:#3d444d}
.audio,.fa{fill:#8c9eff}.a{stroke:#8c9eff}.fb{fill:#f0935a}.b{stroke:#f0935a}.fc{fill:#56c98d}.c{stroke:#56c98d}
.on{fill:#14161f}}
"""


class Picture:
    """Collects shapes; `svg` gives the file. Lengths are in pixels, from the top left."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.size, self.title, self.parts = (width, height), title, list[str]()

    def add(self, tag: str, content: str = "", **attributes: object) -> None:
        """One element; `cls` is its class, underscores in names stand for hyphens."""
        named = {"class" if k == "cls" else k.replace("_", "-"): v for k, v in attributes.items()}
        shown = "".join(
            f' {k}="{round(v, 2) if isinstance(v, float) else escape(str(v))}"' for k, v in named.items() if v != ""
        )
        self.parts.append(f"<{tag}{shown}>{escape(content)}</{tag}>" if content else f"<{tag}{shown}/>")

    def text(self, x: float, y: float, words: object, cls: str = "", anchor: str = "start") -> None:
        """Words whose base line is at `y`."""
        self.add("text", str(words), x=x, y=y, cls=cls, text_anchor="" if anchor == "start" else anchor)

    def box(self, x: float, y: float, width: float, height: float, cls: str, opacity: float = 1.0) -> None:
        """A rectangle."""
        shown = "" if opacity == 1 else round(opacity, 2)
        self.add("rect", x=x, y=y, width=width, height=height, rx=2, cls=cls, fill_opacity=shown)

    def line(self, points: list[tuple[float, float]], cls: str = "line", width: float = 1.0, dash: str = "") -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.add("polyline", points=path, fill="none", cls=cls, stroke_width=width, stroke_dasharray=dash)

    def svg(self) -> str:
        """The text of the file."""
        width, height = self.size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        )
        body = "\n".join(self.parts)
        return f'{head} role="img">\n<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n'
