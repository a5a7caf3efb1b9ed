"""How well layer selectors do, on clips apart from theirs: ``python -m tools.sweeps OUT``.

One sweep over all start layers for each task, strategy and budget, by ``fastadasp select-layer --sweep``, into a file
of its own, so that the same command goes on where it stopped. Dense tasks are run on the clips kept for choosing, of
which there are 150; sparse ones, of which fewer are kept, on those to report on. Clips that a selector saw are never
among them. Then form, features and estimator are chosen on one half of the tasks and reported on the other, both ways.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from fastadasp.display import markdown_table
from fastadasp.errors import RunError
from fastadasp.experiments.sweep import Estimate, Sweep
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
RELIABLE = 0.8
"""Rank correlation between halves of the clips from which on an outcome tells layers apart."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def label(estimate: Estimate) -> str:
    """A selector by its parameters, as one name."""
    return _named(estimate.selector)


def _named(parameters: Mapping[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(parameters.items()) if key != "layer")


def means(sweeps: Sequence[Sweep]) -> dict[str, tuple[float, int, float]]:
    """Of each selector: mean rank correlation, sweeps within 1 point of the best layer, and mean points behind.

    A correlation that is not defined counts as none.
    """
    found: dict[str, list[Estimate]] = {}
    for one in sweeps:
        for estimate in one.estimates:
            found.setdefault(label(estimate), []).append(estimate)
    return {
        name: (
            fmean(estimate.correlation or 0.0 for estimate in own),
            sum(estimate.behind <= 1 + 1e-9 for estimate in own),
            fmean(estimate.behind for estimate in own),
        )
        for name, own in found.items()
        if len(own) == len(sweeps)
    }


def best(figures: Mapping[str, tuple[float, int, float]]) -> str:
    """The selector with the largest mean rank correlation; of equal ones the first by name."""
    return min(figures, key=lambda name: (-figures[name][0], name))


def report(sweeps: Sequence[Sweep], default: str) -> str:
    """The sweeps, and the choice on each half of the tasks with its figures on the other, as Markdown.

    Args:
        default: the selector that users get, as `label` calls it.
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
        for name in dict.fromkeys((best(means(own)), default)):
            if name in figures:
                correlation, near, behind = figures[name]
                which = f"{name}{' (the default)' if name == default else ''}"
                points = [f"{correlation:.2f}", f"{near} of {len(other)}", f"{behind:.1f}"]
                rows.append([", ".join(first), ", ".join(second), str(len(other)), which, *points])
    head = ["chosen on", "reported on", "sweeps", "selector", "rank correlation", "within 1 point", "points behind"]
    return "\n".join([*out, *markdown_table(head, rows, "llrl")])


def read(file: Path) -> Sweep:
    """A finished sweep. Raises RunError if the file holds none."""
    try:
        (content,) = json.loads(file.read_text(encoding="utf-8"))
        return Sweep.model_validate(content)
    except ValueError as error:
        raise RunError(f"{file} holds no sweep: {str(error).splitlines()[0]}; remove it to run it again") from None


def default_selector() -> str:
    """What users get, as `label` calls it."""
    from fastadasp.strategy import get_registry

    made = get_registry().get("layer-selector", "transfer-entropy")()
    return _named({"name": made.name, **made.parameters()})


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
    files = list[Path]()
    for name in names:
        for strategy in STRATEGIES:
            for budget in BUDGETS:
                size = f"-{limit or 'all'}-{clips}"
                files.append(out / f"{name}-{strategy}-{budget.replace('=', '')}{size}.json")
                if files[-1].is_file():
                    continue
                part = out / f"{files[-1].stem}.part.json"
                command = [sys.executable, "-m", "fastadasp", "select-layer", "--task", name, "--strategy", strategy]
                command += ["--budget", budget, "--sweep", "--clips", str(clips), "--output", str(part), "--json"]
                command += [word for item in VARY for word in ("--vary", item)]
                command += ["--part", "choosing"] if name in CHOOSING else ["--part", "reporting"]
                command += [*(["--model", model] if model else []), *(["--limit", str(limit)] if limit else [])]
                typer.echo(f"{files[-1].stem}", err=True)
                made = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
                if made.returncode:
                    raise RunError(f"the sweep of {files[-1].stem} ended with exit code {made.returncode}")
                part.replace(files[-1])
    print(report([read(file) for file in files], default_selector()))


if __name__ == "__main__":
    run(app)
