"""Writes docs/catalogue.md, tables of docs/strategies.md and docs/models.md and a curve for each strategy, from the
registry, `catalogue.toml` and `curves.csv`.

python docs/figures/catalogue.py                         # the pages and the pictures
python docs/figures/catalogue.py --results DIR ...       # also the rows of curves.csv that these folders have
python docs/figures/catalogue.py --anew --results DIR ...  # those rows alone
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

from curves import METRICS, Rows, draw, read_curves, removed_by, write_curves

import fastadasp
from fastadasp.strategy import get_registry

HERE = Path(__file__).parent
TEXTS = tomllib.loads((HERE / "catalogue.toml").read_text(encoding="utf-8"))
INTRO = """# Every strategy

Each strategy that comes with fastadasp: what it computes, where it comes from, what it needs, what it costs, and how
it did. [Components and recipes](strategies.md) has their parameters, [results](results.md) the tables and how to read
them.

Symbols: one clip with audio tokens 1…n at a layer, of which k go and m = n - k stay; h the hidden state after attention
(before the layer at the site `input`), K the key after rotary embedding, A the attention weights; L the start layer; r
the schedule's ratio. For costs, in multiply-adds: N audio tokens, T tokens of the prompt, D channels, H heads of d
channels, d_K channels of all key/value heads together. A layer of the decoder itself costs about
T (4 D² + 3 D · MLP) + 2 T² D; [performance](performance.md) has measured shares.

The curves are at 10 to 50 % of the FLOPs, or of the bytes of keys and values where a strategy saves those, on the clips
of version 0.1: left `asr-72` (word error rate, lower is better), right all 87 of `er` (accuracy, higher is better).
Blue: this strategy, with the 95 % interval over clips. Orange, dashed: `uniform`,
which keeps every m-th token. Grey: the full model. What lies above a word error rate of 35 is cut off.
`python -m tools.curves OUT --anew` measures them all, and `curves.csv` in `docs/figures` has the figures.
"""

OTHERS = {"title": "Others", "about": "Strategies that belong to none of the families above."}


def measured_as(strategy: fastadasp.Strategy, rows: Rows) -> str | None:
    """The strategy's own name, or that of the same recipe, which the comparison ran once; None if it ran neither."""
    recipe = {"name", "summary", "source"}
    for name in dict.fromkeys((strategy.name, *(key[0] for key in rows))):
        if (name, "asr") in rows and name != "full":
            other = fastadasp.load_strategy(name)
            if strategy.model_dump(exclude=recipe) == other.model_dump(exclude=recipe):
                return name
    return None


def series(rows: list[dict[str, Any]]) -> str:
    """The values, and what was removed for them."""
    column = removed_by(rows)
    what = "KV bytes" if column == "kv_removed" else "FLOPs"
    removed = ", ".join(f"{100 * row[column]:.0f}" for row in rows)
    return f"{', '.join(format(row['value'], '.1f') for row in rows)} at {removed} % of the {what} removed"


def broken(formula: str) -> str:
    """A formula with each of its parts on a line."""
    return ("\n" + " " * 8).join(part.strip() for part in formula.split(";"))


def section(strategy: fastadasp.Strategy, rows: Rows) -> str:
    """One strategy's part of the page."""
    parts = {"select": strategy.select, "weight": strategy.weight}
    parts |= {"merge": strategy.merger, "ratio": strategy.schedule}
    known = [(role, part) for role, part in parts.items() if part is not None]
    formulas = "\n".join(f"{role:<8}{broken(part.formula)}" for role, part in known)
    costs = "; ".join(dict.fromkeys(part.cost for _, part in known if part.cost)) or "nothing to speak of"
    needs = ", ".join(f"`{need}`" for need in sorted(strategy.needs())) or "nothing beside hidden states"
    if strategy.needs_calibration:
        where = f"layer chosen by `{strategy.layers.name}` for each task"
    else:
        where = f"layer {strategy.layers.start_layer(64)}"
    site = f"`{strategy.site}`, {'from ' if strategy.schedule.name != 'single-shot' else ''}{where}"
    if strategy.then is not None:
        then = strategy.then
        site += f"; then `{then.site}`, from layer {then.layers.start_layer(64)}"
        formulas += f"\nthen    select: {then.select.formula}"
        formulas += f"\n        merge:  {then.merger.formula}, budget {then.budget.tokens}"
    name, measured, curve = measured_as(strategy, rows), "| measured | not yet |", ""
    if name is not None:
        full = {task: rows["full", task][0]["value"] for task in METRICS}
        words = {"asr": "WER", "er": "accuracy"}
        measured = "\n".join(
            f"| `{task}` {words[task]} | {series(rows[name, task])}; full model {full[task]:.1f} |"
            if (name, task) in rows
            else f"| `{task}` {words[task]} | not measured |"
            for task in METRICS
        )
        curve = f"![Quality of {strategy.name} against what is removed](figures/curve-{name.replace('+', '-')}.svg)\n"
    return f"""### `{strategy.name}`

{strategy.summary[0].upper()}{strategy.summary[1:]}. {TEXTS["note"].get(strategy.name, "")}

```text
{formulas}
```

| | |
|---|---|
| source | {strategy.source or "a baseline of this project"} |
| site | {site} |
| needs | {needs} |
| cost | {costs} |
{measured}

{curve}"""


def built_in(kind: str) -> list[Any]:
    """What comes with fastadasp, by name."""
    return [e.value for e in get_registry().entries(kind) if e.origin.distribution == "fastadasp"]


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", r"\|") or "-"


def parameters(component: type[fastadasp.Component]) -> str:
    """The parameters of a component with their defaults, and what each does."""
    shown = []
    for name, field in component.model_fields.items():
        default = f'"{field.default}"' if isinstance(field.default, str) else field.default
        shown.append(f"`{name}` ({default})" + (f": {field.description}" if field.description else ""))
    return "; ".join(shown) or "none"


def part_name(part: fastadasp.Component | None) -> str:
    """The name of one part of a recipe, as code; nothing where there is none."""
    return "" if part is None else f"`{part.name}`"


def acts(strategy: fastadasp.Strategy) -> str:
    """At which site and layers a strategy acts."""
    chosen = strategy.needs_calibration
    layer = f"`{strategy.layers.name}`" if chosen else str(strategy.layers.start_layer(64))
    return f"`{strategy.site}`, {layer}" + ("" if strategy.then is None else f"; then `{strategy.then.site}`")


def tables() -> dict[str, tuple[str, list[list[str]]]]:
    """The tables of strategies.md by the heading they stand under: the header's cells, and the rows."""
    return {
        "Scorers": (
            "name | gives | formula | source | parameters",
            [[f"`{c.name}`", ", ".join(c.gives), c.formula, c.source, parameters(c)] for c in built_in("scorer")],
        ),
        "Mergers": (
            "name | reads | what it does | source | parameters",
            [[f"`{c.name}`", c.reads, c.formula, c.source, parameters(c)] for c in built_in("merger")],
        ),
        "Schedules": (
            "name | ratio at layer i | source | parameters",
            [[f"`{c.name}`", c.formula, c.source, parameters(c)] for c in built_in("schedule")],
        ),
        "Layer selectors": (
            "name | what it does | parameters",
            [[f"`{c.name}`", c.summary, parameters(c)] for c in built_in("layer-selector")],
        ),
        "Strategies": (
            "name | select | weight | merger | schedule | site, layer | what it is",
            [
                [f"`{s.name}`", *map(part_name, (s.select, s.weight, s.merger, s.schedule)), acts(s), s.summary]
                for s in built_in("strategy")
            ],
        ),
    }


def encoders() -> dict[str, tuple[str, list[list[str]]]]:
    """The table of models.md that says of which families the encoder's attention is seen."""
    families = sorted((a for a in built_in("model") if not a.refusal), key=lambda a: (not a.encoder_paths, a.name))
    rows = []
    for family in families:
        frames = f"`{family.stack}`" if getattr(family, "stack", "") else str(family.encoder_frames)
        frames += f" / `{family.width}`" if getattr(family, "width", "") else ""
        seen = [f"`{family.name}`", "yes", frames] if family.encoder_paths else [f"`{family.name}`", "no", ""]
        rows.append([*seen, family.encoder_refusal])
    return {"The encoder's attention": ("family | seen | frames of a token | why not", rows)}


def with_tables(name: str, tables: dict[str, tuple[str, list[list[str]]]]) -> str:
    """A page with its tables made anew; the text between them is written by hand."""
    page = (HERE.parent / name).read_text(encoding="utf-8")
    for title, (header, rows) in tables.items():
        before, rest = page.split(f"\n## {title}\n")
        prose, _, after = rest.partition("\n| ")
        after = after[after.index("\n\n") :]
        lines = [f"| {header} |", "|---" * (header.count("|") + 1) + "|"]
        lines += [f"| {' | '.join(map(cell, row))} |" for row in rows]
        page = f"{before}\n## {title}\n{prose}\n" + "\n".join(lines) + after
    return page


def build() -> dict[str, str]:
    """The files by their path in docs/."""
    rows, out = read_curves(), {}
    names = {strategy.name: None for strategy in built_in("strategy")}
    page = [INTRO]
    others = {name for name in names if not any(name in family["strategies"] for family in TEXTS["family"])}
    for family in (*TEXTS["family"], {**OTHERS, "strategies": sorted(others)}):
        if family["strategies"]:
            page.append(f"## {family['title']}\n\n{family['about']}\n")
        for name in family["strategies"]:
            strategy = fastadasp.load_strategy(name)
            page.append(section(strategy, rows))
            measured = measured_as(strategy, rows)
            if measured is not None:
                out[f"figures/curve-{measured.replace('+', '-')}.svg"] = draw(measured, rows)
    pages = {"strategies.md": with_tables("strategies.md", tables()), "models.md": with_tables("models.md", encoders())}
    return {"catalogue.md": "\n".join(page), **pages, **out}


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--results", type=Path, nargs="+", default=[])
    options.add_argument("--anew", action="store_true", help="curves.csv has what these folders have, and nothing else")
    chosen = options.parse_args()
    if chosen.results:
        write_curves(chosen.results, chosen.anew)
    for path, content in build().items():
        (HERE.parent / path).write_text(content, encoding="utf-8")
