"""A study from its description to its folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastadasp.contracts.task import Example, Task
from fastadasp.errors import RunError
from fastadasp.experiments import export
from fastadasp.experiments.about import git_commit, now, versions
from fastadasp.experiments.differences import Heading, by_task, markdown
from fastadasp.experiments.drive import Executor, Local, Outcome, Progress, Redo, run
from fastadasp.experiments.plan import Plan, describe, make_plan, recipes
from fastadasp.experiments.probe import Estimate, probe
from fastadasp.experiments.records import Standing, StudyRun
from fastadasp.experiments.spec import Spec
from fastadasp.experiments.standings import standings
from fastadasp.experiments.store import Store
from fastadasp.experiments.worker import Settings, Worker
from fastadasp.files import cache_folder
from fastadasp.selection.cache import Notice

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Options:
    """How a study runs; what it runs is the `Spec`.

    Attributes:
        model: folder or hub id, where the study names none.
        store: folder that keeps cells; None for the one in the user's cache.
        workers, gpus, address: of the executor ``ray`` (`RayExecutor`).
    """

    model: str
    output: Path
    store: Path | None = None
    redo: Redo = field(default_factory=Redo)
    executor: Literal["local", "ray"] = "local"
    workers: int = 2
    gpus: float | None = None
    address: str | None = None


@dataclass(frozen=True)
class DryRun:
    """What would be done: `done` are the cells that the store has already."""

    plan: Plan
    done: set[str]
    estimate: Estimate | None


@dataclass(frozen=True)
class Report:
    """What a run found: the cells, and a table a task."""

    outcome: Outcome
    tables: list[tuple[Heading, list[Standing]]]


class Study:
    """A study that is about to run.

    Raises:
        FastAdaSPError: something is wrong with it; nothing has been loaded or written then.
    """

    def __init__(self, spec: Spec, options: Options, notice: Notice) -> None:
        from fastadasp.inference.load import check_folder, choose_device, choose_dtype

        self.spec, self.options, self._notice = spec, options, notice
        if options.executor not in EXECUTORS:
            raise RunError(f"executor is one of {', '.join(EXECUTORS)}, not {options.executor!r}")
        made, _, _ = recipes(spec)
        given = spec.settings
        self.settings = Settings(
            given.model or options.model,
            tuple(spec.axes["tasks"].values()),
            given.device,
            given.dtype,
            given.limit,
            given.batch_size,
            given.skip_bad,
            any(recipe.needs_calibration for _, recipe in made),
        )
        check_folder(self.settings.model)
        if options.executor == "local":
            choose_dtype(given.dtype, choose_device(given.device))
        self._worker = Worker(self.settings, notice=notice)
        self._worker.read  # noqa: B018  (every recording is read, so that a broken one is known now)

    @property
    def read(self) -> tuple[dict[str, Task], dict[str, list[Example]]]:
        """The tasks and their clips."""
        return self._worker.read

    @property
    def baseline(self) -> str:
        """What differences are taken against, in words."""
        wanted = self.spec.baseline
        return "the full model" if wanted is None else ", ".join(f"{k}={v}" for k, v in wanted.items())

    def dry_run(self) -> DryRun:
        """The cells, those that are done, and how long the others will take. Writes nothing."""
        begin = time.perf_counter()
        worker = self._worker
        plan = make_plan(self.spec, worker.facts)
        loading = time.perf_counter() - begin
        store = Store(self._store, self._notice, write=False)
        results = {point.cell: store.get(point.cell) for point in plan.points}
        done = {cell for cell, result in results.items() if result is not None and not self.options.redo.wanted(result)}
        todo = [point for point in plan.points if point.cell not in done]
        return DryRun(plan, done, probe(worker, loading, todo) if todo else None)

    def run(self, progress: Progress = lambda *_: None) -> Report:
        """Runs what is not done yet and writes the folder.

        Raises:
            FastAdaSPError: something is wrong before the first cell (nothing has been written then), or with the store.
        """
        options = self.options
        export.check_folder(options.output)
        store = Store(self._store, self._notice)
        executor = self._executor()
        try:
            progress("loading the model", 0, 1)
            facts = executor.facts()
            plan = make_plan(self.spec, facts)
            export.check_folder(options.output, plan.study, self.spec.arguments())
            record = self._record(plan, facts)
            export.write_run(options.output, record)
        except BaseException:
            executor.close()
            raise
        outcome = Outcome(plan)
        try:
            run(outcome, store, executor, redo=options.redo, notice=self._notice, progress=progress)
        finally:
            report = self._report(outcome)
            record.status = "failed" if outcome.status == "running" else outcome.status
            record.finished, record.done = now(), len(outcome.results)
            record.failed = sum(result.error is not None for result in outcome.results.values())
            export.write_run(options.output, record)
        return report

    def _report(self, outcome: Outcome) -> Report:
        tasks, examples = self.read
        axes = [name for name, values in self.spec.recipe_axes.items() if len(values) > 1]
        found = standings(self.spec, outcome, tasks, examples)
        tables = [
            (Heading(tasks[name], len(examples[name]), self.baseline, axes), lines)
            for name, lines in by_task(found).items()
        ]
        pages = [markdown(heading, lines) for heading, lines in tables]
        failed = [f"- {p}: {e}" for p in outcome.plan.points if (e := error_of(outcome, p.cell)) is not None]
        if failed:
            pages.append("\n".join(["**failed**", "", *failed]) + "\n")
        export.write_results(self.options.output, outcome, examples, found, "\n".join(pages))
        return Report(outcome, tables)

    @property
    def _store(self) -> Path:
        return self.options.store or cache_folder() / "studies"

    def _executor(self) -> Executor:
        if self.options.executor == "local":
            return Local(self._worker)
        from fastadasp.experiments.ray_workers import RayExecutor

        return RayExecutor(self.settings, self.options.workers, self.options.gpus, self.options.address)

    def _record(self, plan: Plan, facts: dict[str, Any]) -> StudyRun:
        return StudyRun(
            status="running",
            study=plan.study,
            started=now(),
            arguments=self.spec.arguments(),
            cells=len(plan.points),
            refused=plan.refused,
            model_hash=self._worker.loaded.weights_hash,
            device=facts["device"],
            dtype=facts["dtype"],
            versions=versions(),
            git=git_commit(),
            executor=self.options.executor,
            store=str(self._store.absolute()),
        )


def error_of(outcome: Outcome, cell: str) -> str | None:
    """Why a cell failed; None if it did not, or was not run."""
    result = outcome.results.get(cell)
    return None if result is None else result.error


def refusals(plan: Plan) -> list[tuple[str, list[str]]]:
    """The refused cells by reason, the most frequent reason first."""
    groups: dict[str, list[str]] = {}
    for refused in plan.refused:
        groups.setdefault(refused.reason, []).append(describe(refused.axes))
    return sorted(groups.items(), key=lambda item: -len(item[1]))
