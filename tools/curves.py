"""Measures what the curves of docs/strategies.md and docs/catalogue.md lack: ``python -m tools.curves OUT``.

Every strategy that comes with fastadasp at 10 to 50 % of the FLOPs, or of the KV bytes where it saves those, on the
clips of version 0.1: `asr-72`, and the 87 of `er`. Only what `docs/figures/curves.csv` has no row of is run, which
includes the few points that are out of a strategy's reach. Called again with the same OUT it goes on where it stopped.
Curves of other weights are never mixed: the full model's value has to be that of the file;
``--anew`` measures everything.
"""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from fastadasp.demo import data_path
from fastadasp.demo.prompts import INSTRUCTIONS
from fastadasp.errors import RunError
from fastadasp.experiments.axes import ALL, expand
from fastadasp.files import parse_json, read_text
from fastadasp.strategy import get_registry, load_strategy
from tools.running import run

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
FRACTIONS = ("0.1", "0.2", "0.3", "0.4", "0.5")
TASKS = ("asr", "er")
METRICS = ("wer", "accuracy")
"""Of these tasks."""
SECONDS = {"asr": 5.0, "er": 3.5}
"""Of one cell on one core of this project's machine, both with 36 clips at a time: for the estimate alone."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Key = tuple[str, str, str]
"""Strategy, task and budget, as curves.csv has them."""


def wanted() -> list[Key]:
    """Every point of every curve."""
    ours = {e.name for e in get_registry().entries("strategy") if e.origin.distribution == "fastadasp"}
    made = [load_strategy(name) for name in expand([ALL]) if name in ours]
    return [
        (one.name, task, f"{'kv' if one.site == 'cache' else 'flops'}={fraction}")
        for one in sorted(made, key=lambda one: one.name)
        for task in TASKS
        for fraction in FRACTIONS
    ]


def known() -> dict[Key, str]:
    """The values of curves.csv."""
    rows = csv.DictReader(_read(FIGURES / "curves.csv").splitlines())
    return {(row["strategy"], row["task"], row["budget"]): row["value"] for row in rows}


def _read(file: Path) -> str:
    try:
        return read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def groups(keys: Iterable[Key]) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """Strategies by task and by the budgets that they lack there: each group is one comparison."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for name, task, budget in keys:
        lacking.setdefault((name, task), []).append(budget)
    out: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (name, task), budgets in lacking.items():
        out.setdefault((task, tuple(budgets)), []).append(name)
    return out


def task_files(out: Path) -> dict[str, str]:
    """What ``--tasks`` is given for each task: `er` of version 0.1 had both parts of today's."""
    file = out / "er-87.toml"
    content = {
        "name": "er",
        "data": str(data_path() / "manifest.jsonl"),
        "kind": "sparse",
        "metric": "accuracy",
        "instruction": INSTRUCTIONS["er"][0],
        "max_new_tokens": 8,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in content.items()]
    file.write_text("\n".join([*lines, 'where = { task = "er" }', ""]), encoding="utf-8")
    return {"asr": "asr-72", "er": str(file)}


def check_full(folders: Iterable[Path]) -> None:
    """Raises RunError if the full model's values are not those of curves.csv: other weights, or other clips."""
    before = known()
    for folder in folders:
        file = folder / "results.jsonl"
        for line in _read(file).splitlines():
            cell = parse_json(line)
            if cell["strategy"] == "full" and cell["error"] is None:
                task = cell["task"].partition("-")[0]
                value = next((cell["metrics"][name] for name in METRICS if name in cell["metrics"]), None)
                kept = before.get(("full", task, ""))
                if value is None or kept is None:
                    where = FIGURES / "curves.csv" if kept is None else file
                    raise RunError(f"{where} has no value of the full model on {task} ({' or '.join(METRICS)})")
                if f"{value:.1f}" != kept:
                    raise RunError(
                        f"the full model has {value:.1f} on {task} and {kept} in curves.csv, which was made with other "
                        "weights; --anew measures all curves"
                    )


@app.command()
def main(
    out: Annotated[Path, typer.Argument(help="folder for the results")],
    anew: Annotated[bool, typer.Option("--anew", help="measure every point, not only those that are missing")] = False,
    strategies: Annotated[str | None, typer.Option(help="only these, comma-separated")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="clips of each task, for a trial; nothing is kept")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="print what would run and how long, and end")] = False,
) -> None:
    """Measure what the curves of the strategies lack, and draw them."""
    chosen = None if strategies is None else [name.strip() for name in strategies.split(",")]
    keys = [key for key in wanted() if chosen is None or key[0] in chosen]
    if chosen is not None and (unknown := set(chosen) - {key[0] for key in keys}):
        raise RunError(f"--strategies: {sorted(unknown)[0]!r} does not come with fastadasp")
    lacking = [key for key in keys if anew or key not in known()]
    seconds = sum(SECONDS[task] for _, task, _ in lacking)
    typer.echo(f"{len(lacking)} of {len(keys)} points; about {seconds / 60:.0f} processor minutes")
    asked = groups(lacking)
    for (task, budgets), names in asked.items():
        typer.echo(f"  {task} at {', '.join(budgets)}: {', '.join(names)}")
    if plan or not asked:
        return
    out.mkdir(parents=True, exist_ok=True)
    files, folders = task_files(out), list[Path]()
    for (task, budgets), names in asked.items():
        named = hashlib.sha256(f"{task} {budgets} {names} {limit}".encode()).hexdigest()[:12]
        folders.append(out / f"{task}-{named}")
        size = ["--whole"] if limit is None else ["--limit", str(limit)]
        command = [sys.executable, "-m", "fastadasp", "compare", "--strategies", ",".join(names)]
        command += ["--tasks", files[task], "--budgets", ",".join(budgets), "--batch-size", "36", *size]
        command += ["--store", str(out / "store"), "--output", str(folders[-1])]
        made = subprocess.run(command, check=False)
        if made.returncode not in (0, 1):  # 1: some strategy cannot remove as much as some budget asks for
            raise RunError(f"the comparison in {folders[-1]} ended with exit code {made.returncode}")
    if limit is not None:
        return
    if not anew:
        check_full(folders)
    again = ["--anew"] if anew and chosen is None else []
    subprocess.run([sys.executable, str(FIGURES / "catalogue.py"), *again, "--results", *map(str, folders)], check=True)


if __name__ == "__main__":
    run(app)
