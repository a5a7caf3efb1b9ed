"""A report: runs, their lines, clips to listen to, and what happened to the tokens of some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastadasp.errors import FastAdaSPError
from fastadasp.experiments.axes import FULL
from fastadasp.report.clips import Clip, clips_of
from fastadasp.report.lines import Line, lines_of
from fastadasp.report.source import Source, read_source
from fastadasp.report.timeline import Timeline, follow_tokens

Progress = Callable[[str], None]

SAME = ("model", "device", "device_name", "dtype", "fastadasp", "torch", "transformers", "git")
"""What runs have to share to be compared without a thought."""


@dataclass
class Report:
    """Everything that is on the page.

    Attributes:
        timelines: by clip and line, as their numbers.
        notes: what a reader should know.
        embedded: where the embedded model is.
    """

    sources: list[Source]
    lines: list[Line]
    clips: list[Clip] = field(default_factory=list)
    timelines: dict[tuple[int, int], Timeline] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    embedded: Path | None = None

    def letter(self, run: int) -> str:
        """What a run is called: A, B, ... Z, A1, ..."""
        return chr(ord("A") + run % 26) + (str(run // 26) if run >= 26 else "")

    def facts(self, run: int) -> dict[str, str]:
        """What the run ran with, by the names in `SAME`."""
        about = self.sources[run].about
        versions = about.versions
        names = self.sources[run].device_names
        facts = {"model": self._model(run), "device": about.device}
        facts |= {"device_name": ", ".join(names), "dtype": about.dtype, "git": (about.git or "-")[:10]}
        return facts | {name: versions.get(name, "-") for name in ("fastadasp", "torch", "transformers")}

    def _model(self, run: int) -> str:
        """The model by name, with the beginning of its weights' hash, if that is known."""
        source = self.sources[run]
        parts = Path(source.model or "").parts
        own = source.model is None or (self.embedded is not None and parts[-2:] == self.embedded.parts[-2:])
        hub = len(parts) == 2 and not Path(source.model or "").exists()
        name = "embedded model" if own else str(source.model) if hub else parts[-1] if parts else "-"
        return name if source.about.model_hash is None else f"{name} ({source.about.model_hash[:8]})"

    def differing(self) -> dict[str, list[str]]:
        """What the runs do not share, with the value of each."""
        every = [self.facts(run) for run in range(len(self.sources))]
        return {name: values for name in SAME if len(set(values := [facts[name] for facts in every])) > 1}


def make_report(
    folders: Sequence[Path], *, clips: int, timelines: int, embedded: Path, progress: Progress = lambda _: None
) -> Report:
    """Reads runs and puts them together.

    Args:
        clips: of each task, how many clips can be looked at and listened to.
        timelines: of those, for how many the tokens are followed through the model; 0 for none, and no model is loaded.
        embedded: the embedded model, which studies do not name and which may have lain elsewhere.

    Raises:
        RunError: a folder holds no run, or one that cannot be read.
    """
    report = Report([], [], embedded=embedded)
    for folder in dict.fromkeys(path.resolve() for path in folders):
        progress(f"reading {folder}")
        report.sources.append(read_source(folder))
    for run, source in enumerate(report.sources):
        report.lines += lines_of(source, run, lambda: progress("computing statistics"))
    for run, source in enumerate(report.sources):
        report.clips += clips_of(source, run, report.lines, clips, lambda: progress("packing recordings"))
        report.notes += [f"Run {report.letter(run)}: {note}." for note in source.notes]
    if timelines:
        for run in range(len(report.sources)):
            try:
                _follow(report, run, timelines, embedded, progress)
            except FastAdaSPError as error:
                report.notes.append(f"Run {report.letter(run)} has no token timeline: {error}")
    return report


def _follow(report: Report, run: int, most: int, embedded: Path, progress: Progress) -> None:
    """Follows the tokens of each task's first clips under every strategy, at its largest budget."""
    from fastadasp.inference.clips import encode, read_clip
    from fastadasp.inference.load import load_model

    source = report.sources[run]
    chosen = _chosen(report, run, most)
    if not chosen:
        return
    progress("loading the model")
    loaded = load_model(
        _model(source, embedded), "auto", source.about.dtype if source.about.device == "cpu" else "auto"
    )
    if source.about.model_hash not in (None, loaded.weights_hash):
        report.notes.append(f"Run {report.letter(run)}: the model has changed since; its token timelines are today's.")
    faults: dict[str, None] = {}
    for number in chosen:
        clip = report.clips[number]
        if clip.example is None:
            continue
        progress(f"following tokens of {clip.id}")
        ready = encode(loaded, [clip.example], [read_clip(clip.example, loaded)])[0]
        for place in _widest(report.lines, run, clip.task):
            line = report.lines[place]
            try:
                strategy = _strategy(source, line)
                if strategy is not None:
                    report.timelines[number, place] = follow_tokens(loaded, strategy, ready)
            except FastAdaSPError as error:
                faults[f"No token timeline of {line.name}: {error}"] = None
    report.notes += list(faults)


def _chosen(report: Report, run: int, most: int) -> list[int]:
    """Numbers of the first clips of each task whose recording is there."""
    out: list[int] = []
    taken: dict[str, int] = {}
    for number, clip in enumerate(report.clips):
        if clip.run == run and clip.wave is not None and taken.get(clip.task, 0) < most:
            taken[clip.task] = taken.get(clip.task, 0) + 1
            out.append(number)
    return out


def _widest(lines: Sequence[Line], run: int, task: str) -> list[int]:
    """The line of each recipe that removes most."""
    best: dict[str, int] = {}
    for place, line in enumerate(lines):
        if line.run != run or line.task != task or line.strategy == FULL or line.value is None:
            continue
        removed = line.cost("audio_tokens_removed") or 0.0
        if line.name not in best or removed > (lines[best[line.name]].cost("audio_tokens_removed") or 0.0):
            best[line.name] = place
    return list(best.values())


def _model(source: Source, embedded: Path) -> str:
    """Where the model is: as the run says, or the embedded one."""
    named = source.model
    moved = named is not None and not Path(named).exists() and Path(named).parts[-2:] == embedded.parts[-2:]
    return str(embedded) if named is None or moved else named


def _strategy(source: Source, line: Line) -> Any:
    """The strategy of a line's first cell as it ran; None if its recipe is not to be had."""
    from fastadasp.experiments.store import Store
    from fastadasp.selection.select import at_layer
    from fastadasp.strategy import Strategy

    cell = next(cell for cell in line.cells if cell.error is None)
    if not cell.axes and cell.budget is not None and line.strategy in source.about.strategies:
        strategy = Strategy.from_dict(source.about.strategies[line.strategy]).with_budget(cell.budget)
        strategy = strategy.replace(seed=cell.seed)
    else:
        result = Store(Path(source.about.store), lambda _: None, write=False).get(cell.cell)
        if result is None:
            return None
        strategy = Strategy.from_dict({"name": line.strategy, **result.identity["strategy"]})
    return at_layer(strategy, cell.layer) if strategy.needs_calibration and cell.layer is not None else strategy
