"""The comparison: loads the model, runs every cell, writes the folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastadasp.contracts.task import Example, Task
from fastadasp.errors import RunError
from fastadasp.experiments.about import device_name, git_commit, now, versions
from fastadasp.experiments.folder import RunFolder, check_free
from fastadasp.experiments.grid import FULL, Grid
from fastadasp.experiments.lines import Draws, Line, lines
from fastadasp.experiments.records import Cell, Run
from fastadasp.experiments.report import tables
from fastadasp.recipes.reading import SECTIONS
from fastadasp.selection.cache import Notice, warn
from fastadasp.strategy import get_registry


@dataclass(frozen=True)
class Settings:
    """How a comparison runs; what it runs is the `Grid`."""

    model: str
    output: Path
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 12
    seed: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    appendix: str = ""
    """Markdown that follows the tables in ``table.md``."""
    notice: Notice = warn
    """Is told what a person should know, e.g. of a stale cache."""


@dataclass
class Comparison:
    """Outcome of a comparison: its cells in the order they were run, and how it ended."""

    cells: list[Cell]
    status: str
    stopped: str = ""
    """Why it ended before its last cell, where every cell so far failed for one reason."""
    draws: list[Draws | None] = field(default_factory=list)
    """Of each cell: its headline metric on bootstrap samples of the clips; None if it failed."""

    def results(self, grid: Grid) -> list[tuple[Task, list[Line]]]:
        """The lines of each task's table."""
        out: list[tuple[Task, list[Line]]] = []
        for name, task in grid.tasks.items():
            places = [i for i, cell in enumerate(self.cells) if cell.task == name]
            if places:
                out.append((task, lines(task, [self.cells[i] for i in places], [self.draws[i] for i in places])))
        return out


Progress = Callable[[str, int, int], None]
"""Called with (what is being done, clips done, clips in all)."""


def compare(grid: Grid, settings: Settings, progress: Progress = lambda *_: None) -> Comparison:
    """Runs every cell and writes each as soon as it is done.

    A cell that fails is recorded with its error and the others go on. On Ctrl-C what is finished stays and the status
    is ``cancelled``.

    Raises:
        FastAdaSPError: something is wrong before the first cell; nothing has been written then.
    """
    from fastadasp.experiments.starts import needed_examples
    from fastadasp.inference.load import check_folder, choose_device, choose_dtype, load_model

    if settings.batch_size < 1:
        raise RunError(f"batch size is at least 1, not {settings.batch_size}")
    check_free(settings.output)
    check_folder(settings.model)
    choose_dtype(settings.dtype, choose_device(settings.device))
    progress("loading the model", 0, 1)
    loaded = load_model(settings.model, settings.device, settings.dtype)
    calibration = needed_examples(grid)
    _check_fit(grid, loaded, [example for examples, _ in calibration.values() for example in examples])

    notes = [note for name, examples in grid.examples.items() for note in loaded.knows.notes(name, examples)]
    for note in notes:
        settings.notice(note)
    folder = RunFolder(settings.output)
    run = _describe(grid, settings, loaded)
    folder.write_run(run)
    result = Comparison([], "running")
    try:
        _run_cells(grid, settings, loaded, calibration, folder, result, run, progress)
        result.status = "failed" if any(cell.error for cell in result.cells) else "finished"
    except KeyboardInterrupt:
        result.status = "cancelled"
    finally:
        folder.close()
        run.status = result.status if result.status != "running" else "failed"
        run.finished = now()
        folder.write_run(run)
        if result.cells:
            below = "\n".join([*(f"{note}\n" for note in notes), settings.appendix])
            folder.write_text("table.md", f"{tables(result.results(grid))}\n{below}".rstrip() + "\n")
    return result


def _run_cells(
    grid: Grid,
    settings: Settings,
    loaded: Any,
    calibration: dict[str, tuple[list[Example], str]],
    folder: RunFolder,
    result: Comparison,
    run: Run,
    progress: Progress,
) -> None:
    from fastadasp.experiments.cell import budget_value, predictions, run_row
    from fastadasp.experiments.starts import Starts
    from fastadasp.inference.clips import encoder_flops, prepare
    from fastadasp.inference.runner import warm_up

    every = [example for examples in grid.examples.values() for example in examples]
    every += [example for examples, _ in calibration.values() for example in examples]
    # the encoder's window is long: a clip takes about as long there as in several cells
    weight, clips = 6, sum(len(examples) for examples in grid.examples.values())
    total = weight * len(every) + clips * len(grid.rows)
    ready = prepare(loaded, every, settings.batch_size, lambda n: progress("encoding", weight * n, total))
    starts = Starts(grid, loaded, calibration, ready, settings.notice)
    run.start_layers = starts.made
    done = weight * len(every)
    encoder = encoder_flops(loaded, every[0])
    warm_up(loaded, ready[str(every[0].audio), every[0].instruction])
    for name, task in grid.tasks.items():
        examples = grid.examples[name]
        prepared = [ready[str(e.audio), e.instruction] for e in examples]
        for row in grid.rows:
            budget = budget_value(row)
            label = f"{name} {row.name}" + ("" if budget is None else f" {budget}")
            inside = done

            def advance(count: int, label: str = label) -> None:
                nonlocal inside
                inside += count
                progress(label, inside, total)

            scored = run_row(
                loaded,
                starts,
                row,
                task,
                examples,
                prepared,
                batch_size=settings.batch_size,
                encoder_flops=encoder,
                progress=advance,
            )
            folder.add(scored.cell, predictions(row, name, examples, scored.answers))
            result.cells.append(scored.cell)
            result.draws.append(scored.draws)
            done += len(examples)
            result.stopped = _one_reason(result.cells, len(grid.strategies))
            if result.stopped:
                return


def _one_reason(cells: list[Cell], strategies: int) -> str:
    """The reason why every cell of a strategy failed, if it is the same for all, and nothing tells that others work."""
    tried = [cell for cell in cells if cell.strategy != FULL]
    reasons = {cell.error for cell in tried}
    names = {cell.strategy for cell in tried}
    if None in reasons or len(reasons) != 1 or len(names) < min(strategies, 2) or len(tried) < 3:
        return ""
    return str(reasons.pop())


def _check_fit(grid: Grid, loaded: Any, more: Iterable[Example]) -> None:
    """Refuses a recipe or a recording that does not fit the model before any cell runs."""
    from fastadasp.counts.schedule import check_fit
    from fastadasp.experiments.cell import num_layers

    layers = num_layers(loaded)
    for row in grid.rows:
        if row.strategy is not None and not row.strategy.needs_calibration:
            check_fit(row.strategy, layers)
    check_lengths([*(example for examples in grid.examples.values() for example in examples), *more], loaded)


def check_lengths(examples: Iterable[Example], loaded: Any) -> None:
    """Refuses a recording that is longer than the model can hear. Raises DataError."""
    from fastadasp.audio import check_length

    for path in {example.audio: None for example in examples}:
        check_length(path, loaded.longest_clip)


def _describe(grid: Grid, settings: Settings, loaded: Any) -> Run:
    import torch

    from fastadasp.experiments.identity import facts_of, hash_code
    from fastadasp.inference.clips import prompt_text
    from fastadasp.inference.load import hash_weights

    return Run(
        status="running",
        started=now(),
        arguments=settings.arguments,
        seed=settings.seed,
        model=settings.model,
        model_hash=hash_weights(Path(settings.model)),
        device=loaded.device,
        device_name=device_name(loaded.device),
        dtype=loaded.dtype,
        threads=torch.get_num_threads(),
        versions=versions(),
        git=git_commit(),
        strategies={name: strategy.to_dict() for name, strategy in grid.strategies.items()},
        origins=_origins(grid),
        tasks={name: len(examples) for name, examples in grid.examples.items()},
        prompts={name: prompt_text(loaded, examples[0]) for name, examples in grid.examples.items()},
        facts={name: facts_of(task, grid.examples[name]) for name, task in grid.tasks.items()},
        code=hash_code(),
    )


def _origins(grid: Grid) -> dict[str, str]:
    origins = {f"{entry.kind} {entry.name}": entry.origin for entry in get_registry().entries()}
    out = {}
    for strategy in grid.strategies.values():
        for part, kind in SECTIONS.items():
            component = getattr(strategy, part)
            label = "" if component is None else f"{kind} {component.name}"
            if label in origins:
                origin = origins[label]
                out[label] = f"{origin.distribution} {origin.version} ({origin.module})"
    return out


__all__ = ["FULL", "Comparison", "Settings", "compare"]
