"""Accuracy of the embedded model by length, noise, speaker and absence: ``python -m tools.demo.evaluate``.

The plain model, no shortening. The tables are those of the model card. With ``--against`` another model answers the
same clips, and each line has the paired difference: new weights are judged on the part for choosing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from fastadasp.contracts.task import CHOOSING, REPORTING, Example, Task
from fastadasp.demo import model_path
from fastadasp.display import markdown_table, signed
from fastadasp.errors import DataError, ModelError
from fastadasp.experiments.axes import find_task
from fastadasp.experiments.statistics import (
    FEWEST,
    Difference,
    Sample,
    by_clip,
    difference,
    draw,
    holm,
    interval,
    number,
    unit_names,
)
from tools.running import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Group = Callable[[Example], str]
"""What a clip is counted under; empty if under nothing."""


def _speakers(example: Example) -> str:
    return "speakers seen in training" if example.tags["seen_speaker"].lower() == "true" else "unseen speakers"


def _length(example: Example) -> str:
    return example.tags["length"]


def _noise(example: Example) -> str:
    level = int(example.tags["noise_db"])
    return next(f"SNR {low} to {high} dB" for low, high in ((0, 3), (4, 7), (8, 10)) if low <= level <= high)


def _absence(example: Example) -> str:
    return "what is asked for was not ordered" if example.reference == "none" else "what is asked for was ordered"


def _speaker(example: Example) -> str:
    return f"speaker {example.tags['speaker']}"


GROUPS: dict[str, tuple[Group, ...]] = {
    "asr": (_length, _speakers),
    "asr-noise": (_noise, _speakers),
    "asr-fast": (_speakers,),
    "st": (_length, _speakers),
    "sqa": (_absence,),
    "er": (_speakers, _speaker),
    "gender": (lambda example: example.reference,),
}
"""The tasks, and what each of them is divided by."""


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        group: which clips; empty for all.
        units: how many recordings they are of.
        value, interval: the task's headline metric, and its 95 % interval; None for fewer than 20 units.
        other: the same of the model it is compared with.
        gap: this model less the other, paired over the clips.
    """

    task: str
    group: str
    clips: int
    units: int
    metric: str
    value: float
    interval: tuple[float, float] | None
    other: float | None = None
    gap: Difference | None = None


def clips_of(name: str, part: str, limit: int | None) -> tuple[Task, list[Example]]:
    """A packaged task, and the first clips of one of its parts; all of them without a limit."""
    task = find_task(name).of_part(part)
    return task, task.examples(limit)


def answers(
    folder: Path,
    asked: Sequence[tuple[Task, list[Example]]],
    *,
    batch: int = 36,
    device: str = "auto",
    keep: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[list[str]]:
    """What the model in `folder` answers to the clips of each task.

    Args:
        keep: a folder for the answers of each task, from which the same clips are read the next time.

    Raises:
        ModelError: there is no model.
    """
    from fastadasp.inference.clips import prepare
    from fastadasp.inference.load import load_model
    from fastadasp.inference.runner import run_cell

    if not (folder / "config.json").is_file():
        raise ModelError(f"there is no model in {folder}: it has no config.json")
    loaded = load_model(str(folder), device)
    out = []
    for task, examples in asked:
        ids = [example.id for example in examples]
        about: dict[str, Any] = {"model": loaded.weights_hash, "task": task.name, "part": task.part, "ids": ids}
        about |= {"prompts": [example.instruction for example in examples], "new_tokens": task.max_new_tokens}
        file = None if keep is None else keep / f"{task.name}-{task.part}-{len(ids)}-{loaded.weights_hash[:16]}.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file is not None and file.is_file() else {}
        if {key: known.get(key) for key in about} != about:
            tell(f"{folder.name}: {task.name} ({task.part}), {len(ids)} clips")
            ready = prepare(loaded, examples, min(batch, 12), lambda _: None)
            clips = [ready[str(example.audio), example.instruction] for example in examples]
            most = task.max_new_tokens
            said = run_cell(loaded, None, clips, max_new_tokens=most, batch_size=batch, progress=lambda _: None)
            known = {**about, "answers": said.predictions}
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(known), encoding="utf-8")
        out.append(known["answers"])
    return out


def score(
    task: Task, examples: Sequence[Example], own: Sequence[str], others: Sequence[str] | None = None
) -> Iterator[Line]:
    """The lines of one task: all clips, and then each group by itself."""
    places: dict[str, list[int]] = {"": list(range(len(examples)))}
    for group in GROUPS[task.name]:
        found: dict[str, list[int]] = {}
        for place, example in enumerate(examples):
            found.setdefault(group(example), []).append(place)
        places |= {name: found[name] for name in sorted(found, key=_by_number)}
    for name, chosen in places.items():
        part = [examples[i] for i in chosen]
        mine = _sample(task, part, [own[i] for i in chosen])
        if others is None:
            yield _line(task, name, mine)
            continue
        its = _sample(task, part, [others[i] for i in chosen])
        gap = difference(mine, its, higher_is_better=task.higher_is_better)
        yield _line(task, name, mine, its.value, gap)


def _by_number(name: str) -> tuple[float, str]:
    first = name.removeprefix("SNR ").split(" ")[0]
    return (float(first), name) if first.replace(".", "").isdigit() else (0.0, name)


def _line(task: Task, name: str, mine: Sample, other: float | None = None, gap: Difference | None = None) -> Line:
    spread = interval(mine.spread(), mine.size)
    return Line(task.name, name, mine.clips.shape[1], mine.size, task.metric, mine.value, spread, other, gap)


def _sample(task: Task, examples: Sequence[Example], said: Sequence[str]) -> Sample:
    references = [example.reference for example in examples]
    units = number(unit_names(task, examples))
    return Sample(
        np.array([task.score(said, references)[task.metric]]),
        np.array([draw(task, said, references, units)]),
        np.array([by_clip(task, said, references)]),
        units,
    )


def markdown(lines: Sequence[Line]) -> str:
    """The lines as a table of a page; differences are corrected for the table (Holm)."""
    head = ["task", "clips that count", "clips", "metric", "value (95 %)"]
    paired = [line for line in lines if line.gap is not None]
    raised = holm([line.gap.p for line in paired if line.gap is not None])
    p = {id(line): value for line, value in zip(paired, raised, strict=True)}
    head += ["other model", "difference (95 %)", "p (Holm)"] if paired else []
    rows = []
    for line in lines:
        cells = [f"`{line.task}`", line.group or "all", str(line.clips), line.metric.upper()]
        cells[3] = line.metric if line.metric == "accuracy" else cells[3]
        cells.append(f"{line.value:.1f}{_span(line.interval)}")
        if line.gap is not None:
            few = line.units < FEWEST
            cells += [f"{line.other:.1f}", f"{signed(line.gap.value)}{'' if few else _span(line.gap.interval)}"]
            cells.append(f"{p[id(line)]:.3f}")
        rows.append(cells)
    return "\n".join(markdown_table(head, rows, "llrl"))


def _span(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f" ({ends[0]:.1f} to {ends[1]:.1f})"


@app.command()
def main(
    model: Annotated[Path | None, typer.Option(help="model folder; default: the embedded model")] = None,
    against: Annotated[Path | None, typer.Option(help="another model folder, whose answers are compared")] = None,
    tasks: Annotated[str, typer.Option(help="names of tasks, comma-separated")] = ",".join(GROUPS),
    part: Annotated[str, typer.Option(help="reporting, choosing or both: which part of the clips")] = "both",
    limit: Annotated[int | None, typer.Option(min=1, help="clips of each task; default: all")] = None,
    batch: Annotated[int, typer.Option(min=1, help="clips at a time")] = 36,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    keep: Annotated[Path | None, typer.Option(help="folder for the answers, so that the same command goes on")] = None,
    show: Annotated[bool, typer.Option("--show", help="print the wrong answers")] = False,
) -> None:
    """Measure the embedded model by length, noise, speaker and absence, as its model card shows it."""
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    for name in names:
        if name not in GROUPS:
            raise DataError(f"--tasks: there is no task {name!r}; tasks are {', '.join(GROUPS)}")
    parts = {"both": (REPORTING, CHOOSING), REPORTING: (REPORTING,), CHOOSING: (CHOOSING,)}.get(part)
    if parts is None:
        raise DataError(f"--part is {REPORTING}, {CHOOSING} or both, not {part!r}")
    if not names:
        raise DataError("--tasks names no task")

    def tell(message: str) -> None:
        typer.echo(message, err=True)

    for one in parts:
        asked = [clips_of(name, one, limit) for name in names]
        folders = [model or model_path(), *([against] if against else [])]
        said = [answers(folder, asked, batch=batch, device=device, keep=keep, tell=tell) for folder in folders]
        lines = list[Line]()
        for place, (task, examples) in enumerate(asked):
            lines += score(task, examples, said[0][place], said[1][place] if against else None)
        kept = "the clips to report on" if one == REPORTING else "the clips kept for choosing"
        other = f", beside {against}" if against else ""
        print(f"**{folders[0].name}{other}: {kept}**\n\n{markdown(lines)}\n")
        for (task, examples), texts in zip(asked, said[0], strict=True):
            for example, text in zip(examples, texts, strict=True):
                if show and text != example.reference:
                    print(f"{task.name} {example.id}: {example.reference!r} -> {text!r}")


if __name__ == "__main__":
    run(app)
