"""A study, or a comparison, from its description to its folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastadasp.contracts.task import Example, Task
from fastadasp.errors import RunError
from fastadasp.experiments import folder as files
from fastadasp.experiments.about import git_commit, now, versions
from fastadasp.experiments.combinations import Grid, describe, make_grid, over_run, recipes
from fastadasp.experiments.drive import Executor, Finished, Progress, Redo, run
from fastadasp.experiments.executors import check_executor, count_workers, make_executor
from fastadasp.experiments.identity import facts_of, origins_of
from fastadasp.experiments.probe import Forecast, cells_of, in_words, probe
from fastadasp.experiments.progress import Inside, seldom
from fastadasp.experiments.records import Run, StartLayer
from fastadasp.experiments.spec import Spec
from fastadasp.experiments.standings import Entry, apart, standings
from fastadasp.experiments.statistics import unit_names
from fastadasp.experiments.store import Store
from fastadasp.experiments.tables import COMPARISON, STUDY, Face, Heading, markdown
from fastadasp.experiments.times import all_times
from fastadasp.experiments.worker import Settings, Worker
from fastadasp.files import cache_folder
from fastadasp.selection.cache import Notice
from fastadasp.strategy import load_strategy

if TYPE_CHECKING:
    from fastadasp.inference.runner import Runner
    from fastadasp.strategy import Strategy

FACES: dict[str, Face] = {"compare": COMPARISON, "ablate": STUDY}


@dataclass(frozen=True)
class Options:
    """How a study runs; what it runs is the `Spec`.

    Attributes:
        model: folder or hub id, where the study names none.
        command: `compare` or `ablate`: whose tables are written.
        store: folder that keeps cells; None for the one in the user's cache.
        workers, gpus, address: of the executors ``processes`` (`ProcessExecutor`) and ``ray`` (`RayExecutor`).
        appendix: Markdown that follows the tables.
        forecast: whether to say beforehand how long it will take.
        engine: answers the clips; None for transformers.
    """

    model: str
    output: Path
    command: Literal["compare", "ablate"] = "ablate"
    store: Path | None = None
    redo: Redo = field(default_factory=Redo)
    executor: Literal["local", "processes", "ray"] = "local"
    workers: int | None = None
    gpus: float | None = None
    address: str | None = None
    appendix: str = ""
    forecast: bool = False
    engine: Runner | None = None


@dataclass(frozen=True)
class DryRun:
    """What would be done: `done` are the cells that the store has already."""

    grid: Grid
    done: set[str]
    forecast: Forecast | None


@dataclass(frozen=True)
class Findings:
    """What a run found: the cells, and a table a task."""

    finished: Finished
    tables: list[tuple[Heading, list[Entry]]]


class Study:
    """A study that is about to run.

    Raises:
        FastAdaSPError: something is wrong with it; nothing has been loaded or written then.
    """

    def __init__(self, spec: Spec, options: Options, notice: Notice) -> None:
        from fastadasp.inference.load import check_folder, check_map, choose_device, choose_dtype

        self.spec, self.options, self._notice = spec, options, notice
        check_executor(options)
        made, _, _ = recipes(spec)
        given = spec.settings
        self.settings = Settings(
            model=given.model or options.model,
            tasks=tuple(spec.axes["tasks"].values()),
            device=given.device,
            dtype=given.dtype,
            limit=given.limit,
            part=given.part,
            batch_size=given.batch_size
            if given.batch_size != "auto"
            else files.batch_size_in(options.output) or "auto",
            device_map=given.device_map,
            skip_bad=given.skip_bad,
            prompt=given.prompt,
            named=given.model,
            calibrates=any(recipe.needs_calibration for _, recipe in made),
            listens=any("encoder" in recipe.needs() for _, recipe in made),
        )
        check_folder(self.settings.model)
        check_map(given.device_map, given.device)
        if options.executor == "local":
            choose_dtype(given.dtype, choose_device(given.device))
        if options.engine is not None:
            for _, recipe in made:
                options.engine.check(recipe)
        self._worker = Worker(self.settings, notice=notice, engine=options.engine)
        self._worker.read  # noqa: B018  (every recording is read, so that a broken one is known now)

    @property
    def face(self) -> Face:
        """How the lines are shown."""
        face = FACES[self.options.command]
        return face.with_spread() if over_run(self.spec) else face

    @property
    def read(self) -> tuple[dict[str, Task], dict[str, list[Example]]]:
        """The tasks and their clips."""
        return self._worker.read

    @property
    def workers(self) -> int:
        """How many cells will run at a time. Raises RunError for more than this machine has GPUs for."""
        return count_workers(self.options, self.settings.device)

    @property
    def baseline(self) -> str:
        """What differences are taken against, in words."""
        wanted = self.spec.baseline
        if wanted is None:
            return "the full model"
        return ", ".join(value if name == "strategies" else f"{name}={value}" for name, value in wanted.items())

    def dry_run(self) -> DryRun:
        """The cells, those that are done, and how long the others will take. Writes nothing."""
        begin = time.perf_counter()
        worker = self._worker
        grid = make_grid(self.spec, worker.facts)
        for note in worker.notes:
            self._notice(note)
        loading = time.perf_counter() - begin
        store = Store(self.store, self._notice, write=False)
        results = {point.cell: store.get(point.cell) for point in grid.points}
        done = {cell for cell, result in results.items() if result is not None and not self.options.redo.wanted(result)}
        todo = [point for point in grid.points if point.cell not in done]
        return DryRun(grid, done, self._known(lambda: probe(worker, cells_of(todo), loading)) if todo else None)

    def run(self, progress: Progress = lambda *_: None) -> Findings:
        """Runs what is not done yet and writes the folder.

        Raises:
            FastAdaSPError: something is wrong before the first cell (nothing has been written then), or with the store.
        """
        options, arguments = self.options, self.spec.arguments()
        files.check_folder(options.output, options.command, arguments)
        if self.store.exists():
            Store(self.store, self._notice, write=False)  # whether it is one is known before a model is loaded
        executor = make_executor(options, self._worker)
        try:
            progress("loading the model", 0, 1)
            facts = executor.facts()
            grid = make_grid(self.spec, facts)
            files.check_folder(options.output, options.command, arguments, grid.study)
            record = self._record(grid, facts)
            for note in self._worker.notes:
                self._notice(note)
            for note in executor.notices:
                self._notice(note)
            if options.forecast:
                self._foretell(grid, executor)
            store = Store(self.store, self._notice)
            files.write_run(options.output, record)
        except BaseException:
            executor.close()
            raise
        finished = Finished(grid)
        tasks, examples = self.read
        clips = {name: len(found) for name, found in examples.items()}
        self._worker.advance = Inside(progress)
        try:
            run(
                finished,
                store,
                executor,
                redo=options.redo,
                notice=self._notice,
                clips=clips,
                progress=self._worker.advance.total,
                keep=seldom(lambda: files.write_cells(options.output, finished, tasks, examples)),
            )
        finally:
            findings = self._findings(finished)
            record.status = "failed" if finished.status == "running" else finished.status
            record.finished, record.done = now(), len(finished.points)
            record.failed = sum(finished.error(point) is not None for point in finished.points)
            record.start_layers = _start_layers(finished)
            files.write_run(options.output, record)
        return findings

    @property
    def store(self) -> Path:
        """Where cells are kept."""
        return self.options.store or cache_folder() / "studies"

    def pages(self, findings: Findings, face: Face) -> str:
        """The tables in Markdown."""
        return "\n".join(markdown(face, heading, entries) for heading, entries in findings.tables)

    def _findings(self, finished: Finished) -> Findings:
        tasks, examples = self.read
        axes = [name for name, values in self.spec.recipe_axes.items() if len(values) > 1]
        found = standings(self.spec, finished, tasks, examples)
        headings = {
            name: Heading(
                tasks[name], len(examples[name]), len(set(unit_names(tasks[name], examples[name]))), self.baseline, axes
            )
            for name in found
        }
        tables = [
            (replace(headings[name], part=part), own) for name, entries in found.items() for part, own in apart(entries)
        ]
        findings = Findings(finished, tables)
        files.write_cells(self.options.output, finished, tasks, examples)
        page = self.pages(findings, self.face)
        if failed := [f"- {point}: {error}" for point in finished.points if (error := finished.error(point))]:
            page += "\n" + "\n".join(["**failed**", "", *failed]) + "\n"
        for below in (*(f"{note}\n" for note in self._worker.notes), self.options.appendix):
            page += f"\n{below}" if below else ""
        lines = [entry.standing for entries in found.values() for entry in entries]
        files.write_tables(self.options.output, lines, page.rstrip() + "\n" if page else "", all_times(tables))
        return findings

    def _foretell(self, grid: Grid, executor: Executor) -> None:
        """Says how long the cells will take: as long as those that are done, or as a probe shows."""
        redo, store = self.options.redo, Store(self.store, self._notice, write=False)
        known = {p.cell: r for p in grid.points if (r := store.get(p.cell)) is not None and not redo.wanted(r)}
        todo = list({point.cell: point for point in grid.points if point.cell not in known}.values())
        if not todo:
            self._notice(f"all {len(known)} cells are done and stand in {self.store}; --force runs them again")
        elif known:
            seconds = len(todo) * sum(result.seconds for result in known.values()) / len(known)
            seconds /= min(executor.workers, len(todo))
            self._notice(
                f"{len(known)} of {len(known) + len(todo)} cells are done; the others take about {in_words(seconds)}"
            )
        else:
            by = "" if executor.workers == 1 else f" by {executor.workers} workers"
            if (forecast := self._known(lambda: executor.forecast(cells_of(todo)))) is not None:
                self._notice(f"{len(todo)} cells take about {in_words(forecast.seconds)}{by}")

    def _known(self, ask: Callable[[], Forecast]) -> Forecast | None:
        """A forecast; None, with a notice, where it cannot be had. A smaller cell may still run."""
        try:
            return ask()
        except RunError as error:
            self._notice(f"how long the cells take is not known: {error}")
            return None

    def _record(self, grid: Grid, facts: dict[str, Any]) -> Run:
        import torch

        from fastadasp.inference.clips import prompt_text
        from fastadasp.inference.machine import device_name

        loaded = self._worker.loaded
        bases = _bases(self.spec, grid)
        return Run(
            command=self.options.command,
            status="running",
            study=grid.study,
            started=now(),
            arguments=self.spec.arguments(),
            cells=len(grid.points),
            refused=grid.refused,
            seed=next(iter(self.spec.axes["seeds"].values())),
            model=self.settings.model,
            model_hash=loaded.weights_hash,
            device=facts["device"],
            device_name=device_name(facts["device"]),
            dtype=facts["dtype"],
            threads=torch.get_num_threads(),
            batch_size=facts["batch_size"],
            device_map=facts.get("device_map"),
            versions=versions(),
            git=git_commit(),
            strategies={base.name: base.to_dict() for base in bases},
            origins=origins_of(point.row.strategy for point in grid.points if point.row.strategy is not None),
            tasks={name: len(found) for name, found in self.read[1].items()},
            prompts={name: prompt_text(loaded, found[0]) for name, found in self.read[1].items()},
            facts={name: facts_of(task, self.read[1][name]) for name, task in self.read[0].items()},
            code=facts["code"],
            executor=self.options.executor,
            store=str(self.store.absolute()),
        )


def _bases(spec: Spec, grid: Grid) -> list[Strategy]:
    """The recipes that cells are made of. Values that are set may be of a component that an axis brings: they stand in
    a recipe only where there are no axes."""
    asked = {point.labels["strategies"] for point in grid.points if point.labels}
    fixed = {} if spec.recipe_axes else spec.fixed
    return [load_strategy(text, **fixed) for name, text in spec.axes["strategies"].items() if name in asked]


def _start_layers(finished: Finished) -> list[StartLayer]:
    out = []
    for point in finished.points:
        if (start := finished.results[point.cell].start) is not None:
            about: dict[str, Any] = {
                "strategy": point.row.name,
                "task": point.task,
                "axes": point.axes,
                "seed": point.row.seed,
            }
            out.append(StartLayer.model_validate({**dict(start), **about, "budget": str(point.row.budget)}))
    return out


def refusals(grid: Grid) -> list[tuple[str, list[str]]]:
    """The refused cells by reason, the most frequent reason first."""
    groups: dict[str, list[str]] = {}
    for refused in grid.refused:
        groups.setdefault(refused.reason, []).append(describe(refused.axes))
    return sorted(groups.items(), key=lambda item: -len(item[1]))
