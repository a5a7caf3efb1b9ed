"""Draws the pictures of docs/concepts.md from runs of the embedded model: python docs/figures/concepts.py [FOLDER]."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import torch
from drawing import Picture
from torch import Tensor

import fastadasp
from fastadasp.demo import model_path
from fastadasp.engine.trace import Trace
from fastadasp.inference.clips import ReadyClip, batches, encode, read_clip

HERE = Path(__file__).parent
SHORT, LONG, SECOND = "asr-005", "asr-041", "asr-003"
COLOURS = ("fa", "fb", "fc")
SEEN: list[Tensor] = []


class Watch(fastadasp.Scorer):
    """`key-similarity`, written down as it is asked."""

    name: ClassVar[str] = "watch"
    gives = ("affinity",)
    needs = frozenset({"attention", "order"})

    def affinity(self, layer: fastadasp.LayerView) -> Tensor:
        """Cosines, float32 [clips, N - 1]."""
        SEEN.append(fastadasp.load_strategy("weighted").select.affinity(layer))
        return SEEN[-1]


class Runs:
    """The embedded model and three of its clips."""

    def __init__(self) -> None:
        self.loaded = fastadasp.load_model(str(model_path()), device="cpu", dtype="float32")
        task = fastadasp.get_registry().get("task", "asr-72")
        examples = {e.id: e for e in task.examples()}
        chosen = [examples[name] for name in (SHORT, LONG, SECOND)]
        waves = [read_clip(e, self.loaded) for e in chosen]
        self.clips = {e.id: encode(self.loaded, [e], [w])[0] for e, w in zip(chosen, waves, strict=True)}

    def trace(self, strategy: fastadasp.Strategy, *names: str) -> Trace:
        """What happens to these clips in one batch."""
        (batch,) = batches([self.clips[name] for name in names], len(names), "cpu")
        with torch.no_grad(), strategy.apply(self.loaded.model, spans=batch.span_ids) as trace:
            trace.keep_assignment = True
            self.loaded.model(inputs_embeds=batch.embeds, attention_mask=batch.mask)
        return trace


def is_audio(clip: ReadyClip) -> list[bool]:
    """For each token of the prompt."""
    return [bool(x) for x in clip.span_ids > 0]


def shades(sizes: dict[int, int]) -> dict[int, str]:
    """A colour for each cluster of two or more tokens, unlike its neighbours'; one for those that stay alone."""
    joined = [cluster for cluster, size in sizes.items() if size > 1]
    return dict.fromkeys(sizes, "text") | {c: COLOURS[n % len(COLOURS)] for n, c in enumerate(joined)}


def prompt(runs: Runs) -> Picture:
    """Text and audio tokens of one prompt."""
    clip = runs.clips[SHORT]
    kinds = is_audio(clip)
    step = 620 / len(kinds)
    picture = Picture(640, 92, "The tokens of a prompt: text, audio, text")
    for i, audio in enumerate(kinds):
        picture.box(10 + i * step, 34, step - 3, 22, "audio" if audio else "text")
    first, last = kinds.index(True), len(kinds) - 1 - kinds[::-1].index(True)
    picture.text(10 + first * step, 24, f"{sum(kinds)} audio tokens, 40 ms each")
    picture.text(10, 74, f"{first} text", "soft")
    picture.text(630, 74, f"{len(kinds) - 1 - last} text: the instruction", "soft", "end")
    return picture


def stages(runs: Runs) -> Picture:
    """Scores, plan and result of one merge."""
    base = fastadasp.load_strategy("weighted")
    recipe = {"weight": base.weight, "merger": base.merger, "schedule": base.schedule, "layers": base.layers}
    trace = runs.trace(fastadasp.Strategy(name="seen", select=Watch(), **recipe), SHORT)
    kinds = is_audio(runs.clips[SHORT])
    places = [i for i, audio in enumerate(kinds) if audio]
    target = [int(trace.assignment[0, i]) for i in places]
    scores = [float(s) for s in SEEN.pop()[0][: len(places) - 1]]
    low, high = min(scores), max(scores)
    step = 540 / len(places)
    picture = Picture(640, 250, "Score, plan, merge")
    for y, word in ((62, "score"), (128, "plan"), (204, "merge")):
        picture.text(8, y, word)
    members = {c: [i for i, t in enumerate(target) if t == c] for c in dict.fromkeys(target)}
    shade = shades({c: len(m) for c, m in members.items()})
    for i, score in enumerate(scores):
        height = 6 + 46 * (score - low) / (high - low)
        joins = target[i] == target[i + 1]
        picture.box(90 + (i + 0.75) * step, 74 - height, step / 2, height, shade[target[i]] if joins else "text")
    picture.text(90, 16, "cosine of each key to the next: the half with the largest joins (coloured)", "soft")
    for i, cluster in enumerate(target):
        picture.box(90 + i * step, 112, step - 2, 22, shade[cluster])
    picture.text(90, 104, f"{len(places)} audio tokens, clusters by colour; grey ones stay alone", "soft")
    for n, (cluster, inside) in enumerate(members.items()):
        x = 90 + (len(places) - len(members)) * step / 2 + n * step
        for i in inside:
            picture.line([(90 + i * step + step / 2, 135), (x + step / 2, 187)], "line", 0.8)
        picture.box(x, 188, step - 2, 22, shade[cluster])
    picture.text(90, 232, f"{len(members)} tokens: each cluster's mean, weighted by the attention it received", "soft")
    return picture


def kinds_of(runs: Runs) -> Picture:
    """The same clip, half of it removed in four ways."""
    names = ("weighted", "random", "prune", "uniform")
    kinds = is_audio(runs.clips[SHORT])
    places = [i for i, audio in enumerate(kinds) if audio]
    step = 500 / len(places)
    picture = Picture(640, 34 + 34 * len(names), "Half of one clip removed by four strategies")
    picture.text(130, 16, "colours: tokens that become one; grey: stays alone; dashed: gone", "soft")
    for row, name in enumerate(names):
        trace = runs.trace(fastadasp.load_strategy(name, budget=0.5), SHORT)
        target = [int(trace.assignment[0, i]) for i in places]
        sizes = {c: target.count(c) for c in dict.fromkeys(target)}
        shade = shades(sizes)
        y = 26 + 34 * row
        picture.text(8, y + 16, name)
        for i, cluster in enumerate(target):
            picture.box(130 + i * step, y, step - 3, 22, "gone" if cluster < 0 else shade[cluster])
    return picture


def schedules(runs: Runs) -> Picture:
    """Audio tokens that leave each layer under each schedule."""
    picture = Picture(640, 236, "Audio tokens that leave each layer, for three schedules")
    total = runs.clips[LONG].audio_tokens
    layers = runs.loaded.model.config.text_config.num_hidden_layers
    for panel, budget in enumerate(("tokens=0.5", "flops=0.5")):
        left, right, high, low = 40 + panel * 320, 300 + panel * 320, 40, 180
        picture.text(left, 18, f"budget {budget}")
        for share in (0, 0.25, 0.5, 0.75, 1):
            y = low - (low - high) * share
            picture.line([(left, y), (right, y)], "faint", 0.6)
            picture.text(left - 6, y + 4, f"{share:.0%}", "soft", "end")
        for layer in range(layers):
            picture.text(left + (layer + 0.5) * (right - left) / layers, low + 16, layer, "soft", "middle")
        picture.text((left + right) / 2, low + 32, f"layer (clip of {total} audio tokens)", "soft", "middle")
        for shade, schedule, dash in (("a", "single-shot", ""), ("b", "constant", "6 3"), ("c", "decay", "2 2")):
            strategy = fastadasp.load_strategy("weighted", budget=budget, **{"schedule.name": schedule})
            points = []
            for entry in runs.trace(strategy, LONG).layers:
                x = left + entry.layer * (right - left) / layers
                y = low - (low - high) * entry.audio_tokens / total
                points += [(x, y), (x + (right - left) / layers, y)]
            picture.line(points, shade, 2, dash)
    for n, (shade, schedule, dash) in enumerate(
        (("a", "single-shot", ""), ("b", "constant", "6 3"), ("c", "decay", "2 2"))
    ):
        picture.line([(190 + n * 110, 224), (212 + n * 110, 224)], shade, 2, dash)
        picture.text(218 + n * 110, 228, schedule)
    return picture


def positions(runs: Runs) -> Picture:
    """Where survivors stand."""
    kinds = is_audio(runs.clips[SHORT])
    trace = runs.trace(fastadasp.load_strategy("weighted", budget=0.5), SHORT)
    target = [int(x) for x in trace.assignment[0]]
    first = {c: i for i, c in reversed(list(enumerate(target)))}
    kept = sorted(first.values())
    step = 520 / len(kinds)
    picture = Picture(640, 150, "Positions of the survivors: original and compact")
    compact = range(len(kinds) - len(kept), len(kinds))
    rows = (("before", list(range(len(kinds)))), ("original", kept), ("compact", list(compact)))
    for row, (word, places) in enumerate(rows):
        y = 12 + 40 * row
        picture.text(8, y + 16, word)
        for place, column in enumerate(places):
            source = place if row == 0 else kept[place]
            picture.box(100 + column * step, y, step - 3, 22, "audio" if kinds[source] else "text")
    for column in range(0, len(kinds), 5):
        picture.text(100 + column * step + step / 2, 136, column, "soft", "middle")
    picture.text(8, 136, "position", "soft")
    return picture


def padding(runs: Runs) -> Picture:
    """A batch of two prompts before and after a reduction."""
    names = (SECOND, SHORT)
    trace = runs.trace(fastadasp.load_strategy("weighted", budget=0.5), *names)
    (batch,) = batches([runs.clips[name] for name in names], 2, "cpu")
    before = [(clip.tokens - clip.audio_tokens, clip.audio_tokens) for clip in batch.clips]
    after = [(text, trace.layers[-1].audio_tokens_per_sample[i]) for i, (text, _) in enumerate(before)]
    scale = 440 / max(text + audio for text, audio in before)
    picture = Picture(640, 190, "A padded batch before and after a reduction")
    for block, (word, rows) in enumerate((("before", before), ("after", after))):
        width = max(text + audio for text, audio in rows) * scale
        for row, (text, audio) in enumerate(rows):
            y = 12 + 92 * block + 34 * row
            own = (text + audio) * scale
            if width - own > 1:
                picture.box(100, y, width - own - 2, 24, "gone")
            picture.box(100 + width - own, y, audio * scale - 2, 24, "audio")
            picture.box(100 + width - text * scale, y, text * scale, 24, "text")
            picture.text(110 + width, y + 16, f"{audio} audio", "soft")
        picture.text(8, 44 + 92 * block, word)
    return picture


PICTURES = {
    "prompt": prompt,
    "stages": stages,
    "ways": kinds_of,
    "schedules": schedules,
    "positions": positions,
    "padding": padding,
}


def main(folder: Path) -> None:
    """Writes every picture."""
    runs = Runs()
    for name, draw in PICTURES.items():
        (folder / f"{name}.svg").write_text(draw(runs).svg(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
