"""Runs in Python: made by `compare`, or read back with `load_run`; as rows, as a data frame, against another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastadasp import usual
from fastadasp.display import html_table, signed
from fastadasp.errors import RunError
from fastadasp.experiments.statistics import FEWEST, difference, holm
from fastadasp.report.figures import times
from fastadasp.report.lines import Line, known_tasks, lines_of, sample_of
from fastadasp.report.source import Source, read_source
from fastadasp.selection.cache import warn

if TYPE_CHECKING:
    import pandas

COSTS = (
    "audio_tokens_removed",
    "flops_removed",
    "flops_removed_net",
    "flops_removed_with_encoder",
    "flops_removed_net_with_encoder",
    "kv_removed",
)
"""Costs of a row, as fractions of the full model's."""


@dataclass(frozen=True)
class LoadedRun:
    """A finished or interrupted run of ``compare`` or ``ablate``.

    Attributes:
        source: its files, read and checked.

    Example::

        >>> run = fastadasp.compare(["uniform"], output="runs/one", tasks=["er"], budgets=[0.5], limit=2)
        >>> [row["strategy"] for row in run.rows()]
        ['full', 'uniform']
    """

    source: Source

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.source.folder

    @property
    def status(self) -> str:
        """``finished``, ``failed`` (some cells failed), ``cancelled`` or ``running``."""
        return self.source.about.status

    @cached_property
    def lines(self) -> list[Line]:
        """A line for each strategy, budget and task, with the statistics of the report."""
        return lines_of(self.source, 0)

    def rows(self) -> list[dict[str, Any]]:
        """A dictionary for each line, with the same keys in each.

        ``budget_kind`` is ``tokens``, ``flops``, ``kv`` or ``ratio`` and ``budget`` the fraction removed, both None for
        the full model. ``value`` and the intervals are in the metric's own units; removed shares are fractions. Times
        are those of a clip, in seconds, None where they are not known.
        """
        return [_row(line) for line in self.lines]

    def to_dataframe(self) -> pandas.DataFrame:
        """`rows` as a pandas data frame. Raises RunError if pandas is not installed."""
        return _frame(self.rows())

    def against(self, other: LoadedRun) -> list[dict[str, Any]]:
        """Paired differences of the lines that both runs have, this run less the other.

        Each has ``task``, ``strategy``, ``budget``, ``metric``, ``value``, ``other``, ``difference``, its 95 % interval
        (``low``, ``high``; None where none can be given), ``p`` and ``p_holm`` (corrected for all of these lines), and
        ``wins``, ``ties`` and ``losses`` by clip.

        Raises:
            RunError: the runs share no line over the same clips.
        """
        tasks, theirs = known_tasks(self.source), {_name(line): line for line in other.lines}
        out: list[dict[str, Any]] = []
        for line in self.lines:
            match, task = theirs.get(_name(line)), tasks.get(line.task)
            if match is None or task is None:
                continue
            mine, its = sample_of(task, line, self.source.predictions), sample_of(task, match, other.source.predictions)
            if mine is None or its is None or mine[0] != its[0]:
                continue
            gap = difference(mine[1], its[1], higher_is_better=task.higher_is_better)
            low, high = (gap.interval if mine[1].size >= FEWEST else None) or (None, None)
            row: dict[str, Any] = {
                "task": line.task,
                "strategy": line.name,
                "budget": line.budget,
                "metric": line.metric,
            }
            row |= {"value": line.value, "other": match.value, "difference": gap.value, "low": low, "high": high}
            out.append(row | {"p": gap.p, "wins": gap.wins, "ties": gap.ties, "losses": gap.losses})
        if not out:
            raise RunError(f"{self.folder} and {other.folder} share no strategy, budget and task over the same clips")
        for row, corrected in zip(out, holm([row["p"] for row in out]), strict=True):
            row["p_holm"] = corrected
        return out

    def _repr_html_(self) -> str:
        """What a notebook shows: the table of the run."""
        head = ("task", "strategy", "budget", "metric", "value", "interval", "difference", "FLOPs removed")
        return html_table(f"{self.folder} ({self.status})", head, map(_texts, self.lines))


def load_run(folder: str | Path) -> LoadedRun:
    """A run's folder, read back; folders of earlier versions, too.

    Args:
        folder: what ``--output`` of ``fastadasp compare`` or ``fastadasp ablate`` named, e.g. ``runs/first``.

    Raises:
        RunError: there is no run, no cell of it is finished, or a file is damaged (says which line).

    Example::

        >>> made = fastadasp.compare(["uniform"], output="runs/first", tasks=["er"], budgets=[0.5], limit=2)
        >>> run = fastadasp.load_run("runs/first")
        >>> run.to_dataframe()["strategy"].tolist()
        ['full', 'uniform']
    """
    return LoadedRun(read_source(Path(folder)))


def compare(
    strategies: Sequence[str | Path],
    *,
    output: str | Path,
    tasks: Sequence[str] = usual.TASKS,
    budgets: Sequence[str | float] = usual.BUDGETS,
    model: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    limit: int | Literal["all"] | None = None,
    part: str | None = None,
    seed: int = 0,
    seeds: int = usual.SEEDS,
    batch_size: int | Literal["auto"] = usual.BATCH_SIZE,
    overrides: Mapping[str, Any] | None = None,
    baseline: str = "full",
    executor: Literal["local", "processes", "ray"] = "local",
    workers: int | None = None,
    prompt: str | None = None,
    download: bool = False,
    progress: Any = None,
) -> LoadedRun:
    """Compares strategies with the full model, as ``fastadasp compare`` does, and gives the run back.

    Args:
        strategies: names or TOML files.
        output: folder for the results. A run of the same arguments that is there already goes on where it stopped.
        tasks: names, TOML files, or ``name=source`` for clips of one's own.
        budgets: fractions removed, above 0 and below 1; ``"flops=0.3"`` and the like as on the command line.
        model: folder or hub id; the embedded model if None.
        limit: clips of each task, or ``"all"``; None for what each task usually takes (all, unless it says otherwise).
        part: ``choosing`` or ``reporting``: which part of the tasks' clips; None for the tasks' own choice.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        device_map: ``auto`` spreads the model over all devices, by the package accelerate.
        seed: the first seed of random strategies.
        seeds: how many seeds each of them gets.
        batch_size: clips at a time; ``auto`` finds how many fit into memory.
        overrides: fields to change in every recipe, e.g. ``{"layers.layer": 2}``.
        baseline: the strategy that differences are taken against, at the same budget; ``full`` for the full model.
        executor: ``local``, this process; ``processes``, several on this machine; or ``ray``.
        workers: how many of them; None for one a GPU of this machine, or two; with ``ray`` two.
        prompt: what every clip is asked, in the place of the tasks' own instructions.
        download: whether large datasets of public benchmarks are downloaded; they are refused otherwise.
        progress: called with (what is being done, clips done, clips in all).

    Raises:
        FastAdaSPError: something is wrong before the first cell, or no cell finished. Cells that fail later stand in
            the run with their error, and its ``status`` is ``failed``.

    Example::

        run = fastadasp.compare(["weighted", "uniform"], output="runs/mine", tasks=["er"], limit=24)
        run.to_dataframe()

    Example::

        >>> run = fastadasp.compare(["uniform"], output="runs/two", tasks=["er"], budgets=[0.5], limit=2)
        >>> len(run.rows())
        2
    """
    from fastadasp.demo import model_path
    from fastadasp.experiments.comparison import comparison
    from fastadasp.experiments.drive import Redo
    from fastadasp.experiments.study import Options, Study
    from fastadasp.tasks.sources.downloads import asking

    spec = comparison(
        strategies,
        budgets,
        tasks,
        overrides=overrides,
        seed=seed,
        seeds=seeds,
        baseline=baseline,
        model=None if model is None else str(model),
        device=device,
        dtype=dtype,
        device_map=device_map,
        limit=limit,
        part=part,
        batch_size=batch_size,
        prompt=prompt,
    )
    where = Path(output)
    how = Options(
        model=str(model_path()),
        output=where,
        command="compare",
        store=where / "store",
        redo=Redo(failed=True),
        executor=executor,
        workers=workers,
    )
    with asking(lambda _: download):
        found = Study(spec, how, warn).run(progress or (lambda *_: None))
    if found.finished.stopped:
        raise RunError(f"every cell failed for one reason, so the comparison stopped: {found.finished.stopped}")
    return load_run(output)


def _name(line: Line) -> tuple[str, str, str]:
    return line.task, line.name, line.budget


def _row(line: Line) -> dict[str, Any]:
    kind, amount = _budget(line.budget)
    low, high = line.interval or (None, None)
    gap = line.difference_interval or (None, None)
    return {
        "task": line.task,
        "strategy": line.strategy,
        **line.axes,
        "budget_kind": kind,
        "budget": amount,
        "seeds": len(line.cells),
        "metric": line.metric,
        "value": line.value,
        "low": low,
        "high": high,
        "difference": line.difference,
        "difference_low": gap[0],
        "difference_high": gap[1],
        "p_holm": line.p_holm,
        **{name: line.cost(name) for name in COSTS},
        **times(line),
        "error": "; ".join(line.errors) or None,
    }


def _budget(text: str) -> tuple[str | None, float | None]:
    if text == "-":
        return None, None
    kind, _, amount = text.rpartition("=")
    return kind or "tokens", float(amount)


def _texts(line: Line) -> list[str]:
    span = "" if line.interval is None else f"{line.interval[0]:.1f} to {line.interval[1]:.1f}"
    value = "failed" if line.value is None else f"{line.value:.1f}"
    gap, flops = line.difference, line.cost("flops_removed")
    tail = ["" if gap is None else signed(gap), "" if flops is None else f"{flops:.1%}"]
    return [line.task, line.name, line.budget, line.metric, value, span, *tail]


def _frame(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError:
        raise RunError("a data frame needs pandas: pip install pandas; or use rows(), a list of dictionaries") from None
    return pandas.DataFrame(rows)


__all__ = ["LoadedRun", "compare", "load_run"]
