"""Options that several commands have, each declared once: what it is called, what it takes and what its help says.

A command that has to tell an option that was given from one that was not takes the name that ends in `Given`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fastadasp.errors import RunError

if TYPE_CHECKING:
    from fastadasp.strategy import Strategy

_MODEL = typer.Option(help="model folder or hub id; default: the embedded model")
_DEVICE = typer.Option(help="auto, cpu or cuda")
_DTYPE = typer.Option(help="auto (float32 on cpu, bfloat16 on cuda), float32, bfloat16, float16")
_BATCH = typer.Option(help="clips at a time, or auto: as many as fit into memory; default: 12")

Model = Annotated[str | None, _MODEL]
Device = Annotated[str, _DEVICE]
DeviceMap = Annotated[
    str | None, typer.Option(help="auto: spread the model over all devices, by accelerate; default: one device")
]
DeviceGiven = Annotated[str | None, _DEVICE]
Dtype = Annotated[str, _DTYPE]
DtypeGiven = Annotated[str | None, _DTYPE]
BatchSizeGiven = Annotated[str | None, _BATCH]
BatchSize = Annotated[str, typer.Option(help="clips at a time, or auto: as many as fit into memory")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="change a field of every recipe, e.g. schedule.name=decay; may repeat")
]
Limit = Annotated[
    int | None,
    typer.Option(
        help="clips of each task; default: all, but of packaged numbers and orders the first few; see --whole"
    ),
]
Whole = Annotated[bool, typer.Option("--whole", help="all clips of each task")]
Part = Annotated[
    str | None,
    typer.Option(
        help="which part of the tasks' clips: choosing (for layers and thresholds) or reporting; default: reporting, "
        "where a task parts its clips"
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        help="what every clip is asked, in the place of the tasks' instructions; {question} and other columns are "
        "filled in"
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="leave out rows that cannot be used, and say which; default: refuse them")
]
Yes = Annotated[bool, typer.Option("--yes", help="download large datasets without asking")]
Insert = Annotated[
    Path | None,
    typer.Option(help="Markdown page whose marked place is filled with the tables; docs/results-format.md"),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="paper-dense, paper-sparse or sa-map: a paper's strategies, tasks and budgets, its figures beside ours; "
        "field-flops and field-kv: every installed strategy at equal cost; fastadasp presets lists them"
    ),
]
Wide = Annotated[bool, typer.Option("--wide", help="print every column, even if the terminal is too narrow for them")]
Power = Annotated[
    bool,
    typer.Option("--power", help="also print the smallest difference that the clips show with 80 % power"),
]
Json = Annotated[bool, typer.Option("--json", help="print as JSON and nothing else")]
Force = Annotated[bool, typer.Option("--force", help="run finished cells again")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="run failed cells again")]
Executor = Annotated[str, typer.Option(help="local (this process), processes (several on this machine) or ray")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="with --executor processes or ray: how many; default: one a GPU of this machine, or 2; with ray 2"
    ),
]
Gpus = Annotated[
    float | None, typer.Option(help="with --executor processes or ray: GPUs of each; default: 1 if there are any")
]
Address = Annotated[
    str | None, typer.Option(help="with --executor ray: a running cluster, host:port; default: one started here")
]


def clips(limit: int | None, whole: bool) -> int | Literal["all"] | None:
    """What ``--limit`` and ``--whole`` say together. Raises RunError."""
    if whole and limit is not None:
        raise RunError(f"--whole takes all clips and --limit {limit} takes fewer: give one of them")
    return "all" if whole else limit


def recipe(name: str, set_: list[str] | None, budget: str | None) -> Strategy:
    """A strategy as options change it, for a command that has no task's clips. Raises FastAdaSPError."""
    from fastadasp.strategy import load_strategy, parse_overrides

    made = load_strategy(name, **parse_overrides(set_ or []) | ({} if budget is None else {"budget": budget}))
    if made.needs_calibration:
        raise RunError(
            f"strategy {made.name!r} starts at a layer that is chosen for a task; name one with --set layers.layer=N "
            "(fastadasp select-layer finds it)"
        )
    return made


BUDGETS = (
    "fractions to remove: of the audio tokens (0.3), of the decoder's prefill FLOPs (flops=0.3), of the KV bytes "
    "(kv=0.3), a schedule's own ratio (ratio=0.3), or of all clips together, where content decides what each loses "
    "(mean-tokens=0.3, mean-flops=0.3); a prefix holds until the next, as in flops=0.1,0.2"
)
"""What ``--budgets`` takes, in words."""
