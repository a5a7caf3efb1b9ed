"""How well layer selectors do, on clips apart from theirs: ``python -m tools.sweeps OUT``.

One sweep over all start layers for each task, strategy and budget, by ``fastadasp select-layer --sweep``, into a file
of its own, so that the same command goes on where it stopped. Dense tasks are run on the clips kept for choosing, of
which there are 150; sparse ones, of which fewer are kept, on those to report on. Clips that a selector saw are never
among them. Then form, features and estimator are chosen on one half of the tasks and reported on the other, both ways.
All sweeps together are kept in OUT/layer-selection.json.gz.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from fastadasp.demo import model_path
from fastadasp.display import markdown_table
from fastadasp.errors import RunError
from fastadasp.experiments.identity import hash_model
from fastadasp.experiments.sweep import Estimate, Sweep, behind, near
from fastadasp.inference.load import load_model
from fastadasp.strategy import get_registry
from tools.running import run

HALVES = (("asr", "st", "er"), ("asr-noise", "asr-fast", "sqa", "gender"))
"""Tasks of each half; those that share recordings stand together."""
CHOOSING = ("asr", "st", "asr-noise", "asr-fast")
"""Tasks whose clips for choosing are enough for an outcome."""
STRATEGIES, BUDGETS = ("weighted", "prune"), ("flops=0.3", "flops=0.5")
VARY = (
    "form=mutual,residual,difference,resampled",
    "features=probabilities,answer,prompt,audio",
    "estimator=knn,gaussian",
    "dims=8,16",
    "k=3,4,10",
)
Figures = tuple[float, int, float]
"""Of a selector: mean rank correlation, sweeps within 1 point of the best layer, and mean points behind."""
COLUMNS = ("rank correlation", "within 1 point", "points behind")
"""Of `Figures`."""
RELIABLE = 0.8
"""Rank correlation between halves of the recordings from which on an outcome tells layers apart."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def label(parameters: Mapping[str, object]) -> str:
    """A selector by its parameters, as one name."""
    return " ".join(f"{key}={value}" for key, value in sorted(parameters.items()) if key != "layer")


def means(sweeps: Sequence[Sweep]) -> dict[str, Figures]:
    """Of each selector that all sweeps tried. A correlation that is not defined counts as none."""
    found: dict[str, list[Estimate]] = {}
    for one in sweeps:
        for estimate in one.estimates:
            found.setdefault(label(estimate.selector), []).append(estimate)
    return {
        name: (
            fmean(estimate.correlation or 0.0 for estimate in own),
            near(estimate.behind for estimate in own),
            fmean(estimate.behind for estimate in own),
        )
        for name, own in found.items()
        if len(own) == len(sweeps)
    }


def fixed(sweeps: Sequence[Sweep]) -> dict[int, tuple[int, float]]:
    """Of each start layer that is possible in all sweeps, taken always: those within 1 point, and points behind."""
    lost = [behind(one.outcome, one.higher_is_better) for one in sweeps]
    layers = sorted(set.intersection(*map(set, lost)))
    return {layer: (near(one[layer] for one in lost), fmean(one[layer] for one in lost)) for layer in layers}


def best(figures: Mapping[str, Figures]) -> str:
    """The selector with the largest mean rank correlation; of equal ones the first by name."""
    return min(figures, key=lambda name: (-figures[name][0], name))


def report(sweeps: Sequence[Sweep], default: Mapping[str, object]) -> str:
    """The sweeps, the choice on each half of the tasks with its figures on the other, and all selectors, as Markdown.

    Args:
        default: name and parameters of the selector that users get.
    """
    head = ["task", "strategy", "FLOPs removed", "clips", "metric from the first layer on (full model)"]
    rows = []
    for one in sweeps:
        outcome = " ".join(f"{value:.1f}" for value in one.outcome.values())
        halves = "-" if one.halves is None else f"{one.halves:.2f}"
        about = [f"`{one.task}`", f"`{one.strategy}`", one.budget, str(one.clips)]
        rows.append([*about, f"{outcome} ({one.full:.1f})", halves])
    out = markdown_table([*head, "between halves"], rows, "lllrl")
    clear = [one for one in sweeps if one.halves is not None and one.halves >= RELIABLE]
    out += ["", f"{len(clear)} of {len(sweeps)} sweeps tell layers apart (between halves at least {RELIABLE}).", ""]
    rows = []
    for first, second in (HALVES, HALVES[::-1]):
        own, other = ([one for one in clear if one.task in half] for half in (first, second))
        if not own or not other:
            rows.append([", ".join(first), ", ".join(second), str(len(other)), "too few clear sweeps", "", "", ""])
            continue
        figures = means(other)
        for name in dict.fromkeys((best(means(own)), label(default))):
            if name in figures:
                which = f"{name}{' (the default)' if name == label(default) else ''}"
                rows.append(
                    [", ".join(first), ", ".join(second), str(len(other)), which, *_cells(figures[name], other)]
                )
    head = ["chosen on", "reported on", "sweeps", "selector", *COLUMNS]
    out += markdown_table(head, rows, "llrl")
    if clear:
        rows = [
            [f"always {layer}", f"{count} of {len(clear)}", f"{points:.1f}"]
            for layer, (count, points) in fixed(clear).items()
        ]
        out += ["", "A start layer that is always the same, on those that tell layers apart:", ""]
        out += markdown_table(["layer", *COLUMNS[1:]], rows, "l")
        for varied in (("form", "features", "estimator"), ("k", "dims")):
            out += ["", f"All of {', '.join(varied)}, on those that tell layers apart, and on all {len(sweeps)}:", ""]
            out += _beside_default(sweeps, clear, default, varied)
    return "\n".join(out)


def _cells(figures: Figures, sweeps: Sequence[Sweep]) -> list[str]:
    correlation, count, points = figures
    return [f"{correlation:.2f}", f"{count} of {len(sweeps)}", f"{points:.1f}"]


def _beside_default(
    sweeps: Sequence[Sweep], clear: Sequence[Sweep], default: Mapping[str, object], varied: Sequence[str]
) -> list[str]:
    """The selectors that differ from the default in nothing but `varied`, best first."""
    made = {label(estimate.selector): estimate.selector for one in sweeps for estimate in one.estimates}
    there, everywhere = means(clear), means(sweeps)
    alike = [
        name
        for name, selector in made.items()
        if name in everywhere and all(selector.get(key) == default[key] for key in default if key not in varied)
    ]
    rows = [
        [
            *(f"`{made[name].get(key, '-')}`" for key in varied),
            *_cells(there[name], clear),
            *_cells(everywhere[name], sweeps),
        ]
        for name in sorted(alike, key=lambda name: -there[name][0])
    ]
    return markdown_table([*varied, *COLUMNS, *COLUMNS], rows, "l" * len(varied))


def read(file: Path, model_hash: str) -> Sweep:
    """A finished sweep. Raises RunError if the file holds none, or one of another model."""
    try:
        (content,) = json.loads(file.read_text(encoding="utf-8"))
        found = Sweep.model_validate(content)
    except ValueError as error:
        raise RunError(f"{file} holds no sweep: {str(error).splitlines()[0]}; remove it to run it again") from None
    if found.model_hash != model_hash:
        raise RunError(f"{file} holds a sweep of another model, or of other weights; remove it, or name another folder")
    return found


def default_selector() -> dict[str, object]:
    """Name and parameters of what users get."""
    made = get_registry().get("layer-selector", "transfer-entropy")()
    return {"name": made.name, **made.parameters()}


@app.command()
def main(
    out: Annotated[Path, typer.Argument(help="folder for the sweeps")],
    model: Annotated[str | None, typer.Option(help="model folder; default: the embedded model")] = None,
    tasks: Annotated[str, typer.Option(help="comma-separated")] = ",".join((*HALVES[0], *HALVES[1])),
    limit: Annotated[int | None, typer.Option(min=1, help="clips of each task, for a trial")] = None,
    clips: Annotated[int, typer.Option(min=1, help="clips that selectors see")] = 16,
) -> None:
    """Sweep all start layers on the larger sets, and choose a selector on one half of the tasks for the other."""
    names, known = [name.strip() for name in tasks.split(",")], (*HALVES[0], *HALVES[1])
    for name in names:
        if name not in known:
            raise RunError(f"--tasks: {name!r} is in no half; tasks are {', '.join(known)}")
    out.mkdir(parents=True, exist_ok=True)
    model_hash = hash_model(load_model(model or str(model_path())))
    found = list[Sweep]()
    for name in names:
        for strategy in STRATEGIES:
            for budget in BUDGETS:
                size = f"-{limit or 'all'}-{clips}"
                file = out / f"{name}-{strategy}-{budget.replace('=', '')}{size}.json"
                if file.is_file():
                    found.append(read(file, model_hash))
                    continue
                part = out / f"{file.stem}.part.json"
                command = [sys.executable, "-m", "fastadasp", "select-layer", "--task", name, "--strategy", strategy]
                command += ["--budget", budget, "--sweep", "--clips", str(clips), "--output", str(part), "--json"]
                command += [word for item in VARY for word in ("--vary", item)]
                command += ["--part", "choosing"] if name in CHOOSING else ["--part", "reporting"]
                command += [*(["--model", model] if model else []), *(["--limit", str(limit)] if limit else [])]
                typer.echo(file.stem, err=True)
                made = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
                if made.returncode:
                    raise RunError(f"the sweep of {file.stem} ended with exit code {made.returncode}")
                part.replace(file)
                found.append(read(file, model_hash))
    with gzip.GzipFile(out / "layer-selection.json.gz", "wb", mtime=0) as kept:
        kept.write(json.dumps([one.model_dump(mode="json") for one in found]).encode())
    print(report(found, default_selector()))


if __name__ == "__main__":
    run(app)
