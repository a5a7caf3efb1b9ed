"""Makes the packaged test set from data folders: ``python -m tools.demo.testset --data DIR --out DIR``.

Only recordings that training never touches (`tools.demo.splits`). Clips are parted: layers and thresholds are chosen on
the part `choosing`, results are reported on the other (`part_of`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer

from fastadasp.contracts.task import CHOOSING, REPORTING
from fastadasp.demo import prompts
from fastadasp.errors import DataError
from tools.demo.audio import DIGITS, RATE, Wave, disturb, join, read
from tools.demo.corpus import GENDERS, number_questions
from tools.demo.splits import Recording, fixed_order, load_recordings
from tools.running import run

SEEN_NUMBERS, UNSEEN_NUMBERS, LONG_NUMBERS = 40, 28, 4
ORDER_QUESTIONS = 2
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class TestSet:
    """Collects clips and manifest lines."""

    __test__ = False

    def __init__(self, out: Path) -> None:
        self.out, self.lines = out, list[dict[str, Any]]()
        (out / "audio").mkdir(parents=True, exist_ok=True)

    def sound(self, name: str, wave: Wave) -> dict[str, Any]:
        """Writes one clip as Ogg Opus, 16 kHz."""
        path = self.out / "audio" / f"{name}.ogg"
        soundfile.write(path, wave, RATE, format="OGG", subtype="OPUS", compression_level=0.84)
        return {"audio_filepath": f"audio/{path.name}", "duration": round(len(wave) / RATE, 3)}

    def add(self, task: str, clip: dict[str, Any], reference: str, recording: Recording, **more: Any) -> None:
        number = sum(line["task"] == task for line in self.lines)
        self.lines.append(
            {
                "id": f"{task}-{number:03d}",
                "task": task,
                **clip,
                "reference": reference,
                "speaker": recording.speaker,
                "seen_speaker": recording.seen,
                "source": recording.folder,
                **more,
            }
        )


def make(recordings: list[Recording], out: Path, seed: int = 7) -> list[dict[str, Any]]:
    """Writes the test set and gives its manifest lines; the first N lines of a task are a fair mix."""
    rng = np.random.default_rng(seed)
    spared = [r for r in recordings if r.test]
    made = TestSet(out)
    _numbers(made, spared, rng)
    for folder, add in (("emotion", _emotion), ("orders", _order), ("voices", _voice)):
        chosen = [r for r in spared if r.folder == folder]
        for index in rng.permutation(len(chosen)):
            add(made, chosen[index], rng)
    _further_questions(made, [r for r in spared if r.folder == "orders"])
    part_clips(made.lines)
    (out / "manifest.jsonl").write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in made.lines), encoding="utf-8"
    )
    return made.lines


def part_clips(lines: list[dict[str, Any]]) -> None:
    """Says of each line of `er`, `gender` and `sqa` which part it belongs to, by speaker where speakers are known.

    `er` reports on speakers that training never heard, and chooses on the others. Of `gender`'s speakers and of `sqa`'s
    recordings a quarter are for choosing. The numbers among the lines are not parted: those that tasks join are, see
    `fastadasp.demo.numbers`.
    """
    for task, groups in (("gender", ("female", "male")), ("sqa", (None,))):
        for label in groups:
            own = {one["audio_filepath"] for one in lines if one["task"] == task and label in (None, one["reference"])}
            order = sorted(own, key=fixed_order)
            for line in lines:
                if line["task"] == task and line["audio_filepath"] in own:
                    line["part"] = CHOOSING if line["audio_filepath"] in order[: len(order) // 4] else REPORTING
    for line in lines:
        if line["task"] == "er":
            line["part"] = CHOOSING if line["seen_speaker"] else REPORTING


def _further_questions(made: TestSet, orders: list[Recording]) -> None:
    """The slots of each order that were not asked yet, after all others."""
    slots = {f"audio/order-{r.path.stem[:8]}.ogg": r for r in orders}
    asked = {(line["audio_filepath"], line.get("slot")) for line in made.lines}
    clips = {line["audio_filepath"]: line["duration"] for line in made.lines if line["task"] == "sqa"}
    for slot, wordings in prompts.QUESTIONS.items():
        for name, seconds in clips.items():
            if (name, slot) not in asked:
                clip, answer = {"audio_filepath": name, "duration": seconds}, slots[name].labels["slots"]
                reference = answer.get(slot, prompts.NOT_ORDERED)
                made.add("sqa", clip, reference, slots[name], slot=slot, question=wordings[0])


def _numbers(made: TestSet, spared: list[Recording], rng: np.random.Generator) -> None:
    banks: dict[bool, dict[str, list[list[Recording]]]] = {True: {}, False: {}}
    for r in spared:
        if r.folder == "digits":
            banks[r.seen].setdefault(r.speaker, [[] for _ in DIGITS])[r.labels["digit"]].append(r)
    kinds = [(True, False)] * SEEN_NUMBERS + [(False, False)] * UNSEEN_NUMBERS
    kinds += [(True, True)] * (LONG_NUMBERS // 2) + [(False, True)] * (LONG_NUMBERS // 2)
    for index in rng.permutation(len(kinds)):
        seen, long = kinds[index]
        speakers = sorted(banks[seen])
        bank = banks[seen][speakers[int(rng.integers(len(speakers)))]]
        count = 20 if long else int(rng.choice(np.arange(2, 21), p=_lengths()))
        used = [bank[d][int(rng.integers(len(bank[d])))] for d in rng.integers(0, 10, count)]
        joined, heard = join([read(r.path) for r in used], rng, 1.6 if long else 0.45)
        clip = made.sound(f"number-{int(index):03d}", disturb(joined, rng))
        digits = [int(r.labels["digit"]) for r in used[:heard]]
        for task, _, answer in number_questions(digits):
            made.add(task, clip, answer, used[0])


def _lengths() -> Any:
    """Probabilities of 2 to 20 digits; about 8 in the middle."""
    weight = np.exp(-0.5 * ((np.arange(2, 21) - 7) / 4.5) ** 2)
    return weight / weight.sum()


def _emotion(made: TestSet, r: Recording, rng: np.random.Generator) -> None:
    made.add("er", made.sound(f"emotion-{r.path.stem}", read(r.path)), str(r.labels["emotion"]), r)


def _order(made: TestSet, r: Recording, rng: np.random.Generator) -> None:
    clip = made.sound(f"order-{r.path.stem[:8]}", read(r.path))
    slots = r.labels["slots"]
    absent = [slot for slot in prompts.QUESTIONS if slot not in slots]
    asked = [str(rng.choice(sorted(slots)))]
    rest = absent if absent and rng.random() < 0.6 else [s for s in sorted(slots) if s != asked[0]] or absent
    asked.append(str(rng.choice(rest)))
    for slot in asked[:ORDER_QUESTIONS]:
        question = prompts.QUESTIONS[slot][0]
        made.add("sqa", clip, slots.get(slot, prompts.NOT_ORDERED), r, slot=slot, question=question)


def _voice(made: TestSet, r: Recording, rng: np.random.Generator) -> None:
    wave = read(r.path)
    begin = int(rng.uniform(0, max(len(wave) - 8 * RATE, 1)))
    clip = made.sound(f"voice-{r.path.stem}", wave[begin : begin + 8 * RATE])
    made.add("gender", clip, GENDERS[str(r.labels["gender"])], r)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="folder with digits/, emotion/, orders/ and voices/")],
    out: Annotated[Path, typer.Option(help="folder for manifest.jsonl and audio/")] = Path("demo-testset"),
) -> None:
    """Write the packaged test set."""
    if not data.is_dir():
        raise DataError(f"--data {data} is not a folder")
    lines = make(load_recordings(data), out)
    print(f"{len(lines)} questions about {len({line['audio_filepath'] for line in lines})} clips written to {out}")


if __name__ == "__main__":
    run(app)
