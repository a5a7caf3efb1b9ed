"""Writes docs/catalogue.md, the tables of docs/strategies.md and a curve for each strategy, from the registry,
`catalogue.toml` and `curves.csv`.

python docs/figures/catalogue.py                    # the pages and the pictures
python docs/figures/catalogue.py --results DIR      # also curves.csv anew, from the results of docs/results.md
"""

from __future__ import annotations

import argparse
import csv
import json
import tomllib
from pathlib import Path
from statistics import mean
from typing import Any

from drawing import Picture

import fastadasp
from fastadasp.strategy import get_registry

HERE = Path(__file__).parent
TEXTS = tomllib.loads((HERE / "catalogue.toml").read_text(encoding="utf-8"))
METRICS = {"asr": ("wer", "WER, %", 35.0, 0.0), "er": ("accuracy", "accuracy, %", 50.0, 100.0)}
"""Metric of each task that is drawn, its label, and the worst and the best value of the axis."""
FIELDS = ("strategy", "task", "budget", "value", "low", "high", "flops_removed", "kv_removed")
INTRO = """# Every strategy

Each strategy that comes with fastadasp: what it computes, where it comes from, what it needs, what it costs, and how
it did. [Components and recipes](strategies.md) has their parameters, [results](results.md) the tables and how to read
them.

Symbols: one clip with audio tokens 1…n at a layer, of which k go and m = n - k stay; h the hidden state after attention
(before the layer at the site `input`), K the key after rotary embedding, A the attention weights; L the start layer; r
the schedule's ratio. For costs, in multiply-adds: N audio tokens, T tokens of the prompt, D channels, H heads of d
channels, d_K channels of all key/value heads together. A layer of the decoder itself costs about
T (4 D² + 3 D · MLP) + 2 T² D; [performance](performance.md) has measured shares.

The curves are those of [results](results.md): the embedded model, all packaged clips, left `asr` (word error rate,
lower is better), right `er` (accuracy, higher is better). Blue: this strategy, with the 95 % interval over clips.
Orange, dashed: `uniform`, which keeps every m-th token. Grey: the full model. What lies above a word error
rate of 35 is cut off. `curves.csv` in `docs/figures` has the figures, made from that run's folder by
`python docs/figures/catalogue.py --results DIR`.
"""

OTHERS = {"title": "Others", "about": "Strategies that belong to none of the families above."}

Rows = dict[tuple[str, str], list[dict[str, Any]]]


def write_curves(results: Path) -> None:
    """curves.csv: quality (percent; mean over seeds) and what was removed (fractions), by strategy, task and budget."""
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in (results / "results.jsonl").read_text(encoding="utf-8").splitlines():
        cell = json.loads(line)
        if cell["task"] in METRICS and cell["error"] is None:
            cells.setdefault((cell["strategy"], cell["task"], cell["budget"] or ""), []).append(cell)
    with (HERE / "curves.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(FIELDS)
        for key, seeds in cells.items():
            values = [
                [cell["metrics"][METRICS[key[1]][0]] for cell in seeds],
                *([cell["interval"][side] for cell in seeds] for side in (0, 1)),
                *([100 * cell["efficiency"][name] for cell in seeds] for name in FIELDS[-2:]),
            ]
            shown = [f"{mean(v):.1f}" for v in values[:3]] + [f"{mean(v) / 100:.3f}" for v in values[3:]]
            table.writerow([*key, *shown])


def read_curves() -> Rows:
    """The rows of curves.csv by strategy and task, in order of budget."""
    rows: Rows = {}
    with (HERE / "curves.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault((row["strategy"], row["task"]), []).append(
                {k: float(v) if k in FIELDS[3:] else v for k, v in row.items()}
            )
    return rows


def measured_as(strategy: fastadasp.Strategy, rows: Rows) -> str | None:
    """The strategy's own name, or that of the same recipe, which the comparison ran once; None if it ran neither."""
    recipe = {"name", "summary", "source"}
    for name in dict.fromkeys((strategy.name, *(key[0] for key in rows))):
        if (name, "asr") in rows and name != "full":
            other = fastadasp.load_strategy(name)
            if strategy.model_dump(exclude=recipe) == other.model_dump(exclude=recipe):
                return name
    return None


def removed_by(rows: list[dict[str, Any]]) -> str:
    """The column of what these rows were asked to remove."""
    return "kv_removed" if rows[0]["budget"].startswith("kv") else "flops_removed"


def draw(name: str, rows: Rows) -> str:
    """Quality over what was removed, one panel a task."""
    picture = Picture(640, 190, f"{name}: quality against what is removed")
    removed = removed_by(rows[name, "asr"])
    for panel, (task, (_, label, bottom, top)) in enumerate(METRICS.items()):
        left, right, high, low = 44 + panel * 325, 300 + panel * 325, 24, 150

        def x(fraction: float, left: float = left, right: float = right) -> float:
            return left + (right - left) * fraction / 0.55

        def y(value: float, bottom: float = bottom, top: float = top, high: float = high, low: float = low) -> float:
            inside = min(max(value, min(bottom, top)), max(bottom, top))
            return low + (high - low) * (inside - bottom) / (top - bottom)

        picture.text(left, 14, f"{task}: {label}", "soft")
        for tick in (0, 10, 20, 30) if task == "asr" else (50, 60, 70, 80, 90, 100):
            picture.line([(left, y(tick)), (right, y(tick))], "faint", 0.6)
            picture.text(left - 6, y(tick) + 4, tick, "soft", "end")
        for tick in (0, 10, 20, 30, 40, 50):
            picture.text(x(tick / 100), low + 16, tick, "soft", "middle")
        words = "KV bytes removed, %" if removed == "kv_removed" else "prefill FLOPs removed, %"
        picture.text((left + right) / 2, low + 32, words, "soft", "middle")
        full = y(rows["full", task][0]["value"])
        picture.line([(left, full), (right, full)], "line", 1)
        if removed == "flops_removed" and name != "uniform":
            points = [(x(r[removed]), y(r["value"])) for r in rows["uniform", task]]
            picture.line([(left, full), *points], "b", 1.3, "4 3")
        own = [r for r in rows[name, task] if min(top, bottom) <= r["value"] <= max(top, bottom)]
        start = [(left, full)] if name != "weighted+h2o" else []
        picture.line([*start, *((x(r[removed]), y(r["value"])) for r in own)], "a", 2)
        for row in own:
            place = x(row[removed])
            picture.line([(place, y(row["low"])), (place, y(row["high"]))], "a", 1)
            picture.add("circle", cx=place, cy=y(row["value"]), r=3, cls="fa")
    return picture.svg()


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
            f"| `{task}` {words[task]} | {series(rows[name, task])}; full model {full[task]:.1f} |" for task in METRICS
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


def with_tables() -> str:
    """strategies.md with its tables made anew; the text between them is written by hand."""
    page = (HERE.parent / "strategies.md").read_text(encoding="utf-8")
    for title, (header, rows) in tables().items():
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
    return {"catalogue.md": "\n".join(page), "strategies.md": with_tables(), **out}


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--results", type=Path)
    chosen = options.parse_args()
    if chosen.results:
        write_curves(chosen.results)
    for path, content in build().items():
        (HERE.parent / path).write_text(content, encoding="utf-8")
