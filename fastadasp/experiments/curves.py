"""Tables of layer selections and sweeps, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from rich import box
from rich.table import Table

from fastadasp.experiments.sweep import Estimate, Sweep, near
from fastadasp.selection.choice import Selection, above
from fastadasp.selection.curve import Panel


def choice_panel(task: str, selection: Selection) -> Panel:
    """A selection as a plot."""
    choice = selection.choice
    title = f"{task}, {selection.strategy}, {selection.budget}: start at layer {choice.layer}"
    return Panel(title, choice.above, choice.layer, unit=choice.unit, noise=choice.noise)


def choice_table(task: str, selection: Selection) -> Table:
    """The estimated loss of every layer."""
    choice = selection.choice
    beyond, noise = choice.above, choice.noise
    table = _table(choice_panel(task, selection).title, ("start at layer", f"loses more ({choice.unit})", ""))
    for layer, loss in beyond.items():
        near = " within the noise" if noise is not None and 0 < loss <= noise else ""
        table.add_row(_mark(layer, choice.layer), f"{loss:.4f}", _bar(loss, beyond.values()) + near)
    for layer in selection.left_out:
        table.add_row(str(layer), "-", "left out: cannot meet the budget")
    known = {key: value for key, value in choice.details.items() if key not in ("unit", "noise")}
    parts = [*selection.selector.items(), *known.items()]
    about = ", ".join(f"{key} {value}" for key, value in dict(parts).items() if value is not None)
    told = f" Differences below about {noise:.4f} are noise." if noise is not None else ""
    table.caption = (
        "How much more of what the full model knows is lost by starting there than at the best layer, at equal budget; "
        f"0 is the best.{told}\n{about}; {len(selection.clips)} clips ({selection.clips_from}); chosen in "
        f"{selection.seconds:.1f} s at {selection.made}"
    )
    return table


def sweep_panel(found: Sweep) -> Panel:
    """A sweep as a plot."""
    shown = found.estimates[0]
    title = f"{found.task}, {found.strategy}, {found.budget}: chosen {shown.layer}, {shown.behind:.1f} points behind"
    return Panel(title, above(shown.losses), shown.layer, found.outcome, found.metric)


def sweep_table(found: Sweep) -> Table:
    """Estimate and outcome of every layer."""
    shown = found.estimates[0]
    table = _table(
        sweep_panel(found).title, ("start at layer", "loses more (estimate)", found.metric, "against full", "")
    )
    beyond = above(shown.losses)
    for layer, loss in beyond.items():
        cells = (f"{loss:.4f}", f"{found.outcome[layer]:.1f}", f"{found.outcome_full[layer]:.1f}")
        table.add_row(_mark(layer, shown.layer), *cells, _bar(loss, beyond.values()))
    for layer in found.left_out:
        table.add_row(str(layer), "-", "-", "-", "left out: cannot meet the budget")
    several = "" if len(found.estimates) == 1 else f"; the first of {len(found.estimates)} selectors is shown"
    table.caption = (
        f"rank correlation with {found.metric} {_number(shown.correlation)}, with {found.metric} against the full "
        f"model's answers {_number(shown.correlation_full)}; of {found.metric} between halves of the recordings "
        f"({found.clips} clips) {_number(found.halves)}; full model {found.full:.1f}{several}"
    )
    return table


def summary_table(sweeps: Sequence[Sweep]) -> Table:
    """Each selector over all tasks, strategies and budgets; a flat outcome counts as no correlation."""
    cells: dict[str, list[Estimate]] = {}
    for found in sweeps:
        for estimate in found.estimates:
            cells.setdefault(" ".join(f"{k}={v}" for k, v in estimate.selector.items()), []).append(estimate)

    def mean(label: str, key: str) -> float:
        return fmean(getattr(estimate, key) or 0.0 for estimate in cells[label])

    columns = ("selector", "rank correlation", "against full", "within 1 point", "points behind")
    table = _table(f"selectors, means over {len(sweeps)} sweeps", columns)
    for label in sorted(cells, key=lambda label: -mean(label, "correlation")):
        figures = (f"{mean(label, key):.2f}" for key in ("correlation", "correlation_full"))
        within = f"{near(estimate.behind for estimate in cells[label])} of {len(cells[label])}"
        table.add_row(label, *figures, within, f"{mean(label, 'behind'):.2f}")
    halves = [found.halves for found in sweeps if found.halves is not None]
    if halves:
        table.caption = f"rank correlation of the outcome between halves of the recordings: {fmean(halves):.2f}"
    return table


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place and column else "left", overflow="fold")
    return table


def _mark(layer: int, chosen: int) -> str:
    return f"{layer} <-" if layer == chosen else str(layer)


def _bar(value: float, values: Iterable[float]) -> str:
    low, high = min(values), max(values)
    return "#" * (1 + round(29 * (value - low) / (high - low))) if high > low else "#"


def _number(value: float | None) -> str:
    return "undefined (flat)" if value is None else f"{value:.2f}"
