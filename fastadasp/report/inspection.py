"""One recording looked at: the model's answers, and what strategies do to its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastadasp.contracts.task import Example
from fastadasp.experiments.axes import FULL
from fastadasp.inference.load import LoadedModel
from fastadasp.report import clips
from fastadasp.report.clips import Clip
from fastadasp.report.shell import render
from fastadasp.report.timeline import Timeline, follow_tokens, picture, plain, spectrogram
from fastadasp.strategy import Strategy


@dataclass(frozen=True)
class Inspection:
    """What was seen.

    Attributes:
        clip: the recording; its answers are the full model's (0) and those of the strategies (1, 2, ...).
        strategies: in their order.
        timelines: of each strategy.
    """

    clip: Clip
    strategies: list[Strategy]
    timelines: list[Timeline]
    model: str


def inspect(
    loaded: LoadedModel, path: Path, strategies: Sequence[Strategy], question: str, max_new_tokens: int
) -> Inspection:
    """Asks the model about a recording, with each strategy and without.

    Raises:
        DataError: the recording cannot be read, or is longer than the model hears.
        StrategyError: a strategy does not fit the model, or its budget the recording.
    """
    from fastadasp.audio import read_audio
    from fastadasp.inference.clips import encode, read_clip
    from fastadasp.inference.runner import run_cell

    example = Example(path.stem, path, question, "")
    ready = encode(loaded, [example], [read_clip(example, loaded)])[0]
    followed = [follow_tokens(loaded, strategy, ready) for strategy in strategies]
    answers = {}
    for number, strategy in enumerate([None, *strategies]):
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": 1, "progress": lambda _: None}
        answers[number] = run_cell(loaded, strategy, [ready], **options).predictions[0]
    wave = read_audio(path, clips.RATE)
    clip = Clip(0, "", path.stem, path.name, "", answers, 0, example, wave, clips.pack(wave))
    return Inspection(clip, list(strategies), followed, f"{type(loaded.model).__name__} from {loaded.path}")


def html(seen: Inspection) -> str:
    """A page like a report's, with this one recording."""
    common = {"run": "A", "task": "", "axes": {}, "value": 0.0}
    lines = [common | {"strategy": FULL, "name": FULL, "budget": "-"}]
    lines += [common | {"strategy": s.name, "name": s.name, "budget": str(s.budget)} for s in seen.strategies]
    shown = clips.plain(seen.clip)
    wave = seen.clip.wave
    shown |= {"run": "A", "reference": None, "differ": None, "picture": wave is not None and picture(wave, clips.RATE)}
    timelines = [[0, number, plain(timeline)] for number, timeline in enumerate(seen.timelines, 1)]
    data = {"lines": lines, "clips": [shown], "timelines": timelines}
    return render("inspect.html", data, title=seen.clip.audio, model=seen.model)


def draw(seen: Inspection, path: Path) -> None:
    """The timeline as a picture: the spectrogram, and below it a strip for each layer that removed tokens."""
    import numpy as np
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    wave, seconds = seen.clip.wave, seen.clip.seconds
    if wave is None or seconds is None:
        return
    strips = [
        (f"{strategy.name}, {strategy.budget}, layer {layer}", row)
        for strategy, timeline in zip(seen.strategies, seen.timelines, strict=True)
        for layer, row in timeline.layers.items()
    ]
    colours = ["#b3261e", "#c9d0d8", "#2f7ec2", "#8cc1ea"]
    figure = Figure(figsize=(12, 2.6 + 0.34 * len(strips)), layout="constrained")
    parts = figure.subplots(
        1 + len(strips), 1, sharex=True, squeeze=False, height_ratios=[6, *[1] * len(strips)]
    ).flatten()
    parts[0].imshow(
        spectrogram(wave, clips.RATE), origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, 1)
    )
    parts[0].set_yticks([])
    parts[0].set_title(seen.clip.audio, loc="left", fontsize=10)
    used = set[int]()
    for part, (name, row) in zip(parts[1:], strips, strict=True):
        edges = np.linspace(0, seconds, len(row) + 1)
        used |= set(_shades(row))
        part.pcolormesh(edges, [0, 1], [_shades(row)], cmap=ListedColormap(colours), vmin=0, vmax=3)
        part.set_yticks([])
        left = len({cluster for cluster in row if cluster >= 0})
        part.set_ylabel(f"{name}: {left} of {len(row)}", rotation=0, ha="right", va="center", fontsize=8)
    parts[-1].set_xlabel("seconds")
    names = ("dropped", "alone", "merged", "merged, next cluster")
    figure.legend(
        handles=[Patch(color=colours[kind], label=names[kind]) for kind in sorted(used)],  # what is drawn, no more
        loc="outside lower right",
        ncols=4,
        fontsize=8,
    )
    figure.savefig(path, dpi=150)


def _shades(row: Sequence[int]) -> list[int]:
    """A colour for each token: 0 dropped, 1 alone, 2 and 3 merged, in turn from cluster to cluster."""
    sizes: dict[int, int] = {}
    for cluster in row:
        sizes[cluster] = sizes.get(cluster, 0) + 1
    merged = {cluster: place for place, cluster in enumerate(c for c in sizes if c >= 0 and sizes[c] > 1)}
    return [0 if c < 0 else 2 + merged[c] % 2 if c in merged else 1 for c in row]
