"""The tasks of the embedded model, over its packaged test set."""

from __future__ import annotations

from fastadasp.contracts.hookspecs import hookimpl
from fastadasp.contracts.task import Task
from fastadasp.demo import data_path
from fastadasp.demo.numbers import Kind
from fastadasp.demo.prompts import INSTRUCTIONS
from fastadasp.demo.task import NUMBER_TOKENS, NumbersTask
from fastadasp.tasks.manifest import ManifestTask

USUAL = 32
"""Clips of spoken numbers that a comparison takes unless it is told to take more, so that the first is a short one.

The first are a fair mix of lengths and speakers.
"""


@hookimpl
def fastadasp_tasks() -> list[Task]:
    manifest = data_path() / "manifest.jsonl"

    def ask(name: str) -> str:
        return INSTRUCTIONS[name][0]

    def numbers(name: str, kind: Kind, summary: str) -> NumbersTask:
        return NumbersTask(name, data_path() / "digits", kind, ask(name.partition("-")[0]), summary, USUAL)

    def earlier(name: str, metric: str, summary: str) -> ManifestTask:
        return ManifestTask(
            f"{name}-72",
            manifest,
            kind="dense",
            metric=metric,
            instruction=ask(name),
            where={"task": name},
            max_new_tokens=NUMBER_TOKENS,
            summary=summary,
        )

    return [
        numbers("asr", "plain", "transcribe spoken numbers of 2 to 20 digits"),
        numbers("st", "plain", "translate spoken numbers into German"),
        numbers("asr-noise", "noise", "transcribe spoken numbers in noise of 0 to 10 dB"),
        numbers("asr-fast", "fast", "transcribe spoken numbers at 1.3 to 1.6 times the speed"),
        earlier("asr", "wer", "transcribe spoken numbers: the 72 clips of version 0.1"),
        earlier("st", "bleu", "translate spoken numbers into German: the 72 clips of version 0.1"),
        ManifestTask(
            "er",
            manifest,
            kind="sparse",
            metric="accuracy",
            instruction=ask("er"),
            where={"task": "er"},
            parts="part",
            usual=48,
            max_new_tokens=8,
            summary="emotion of a German speaker: angry, happy, neutral, sad",
        ),
        ManifestTask(
            "sqa",
            manifest,
            kind="sparse",
            metric="accuracy",
            instruction="",
            where={"task": "sqa"},
            parts="part",
            usual=96,
            max_new_tokens=12,
            summary="questions about a spoken coffee order",
        ),
        ManifestTask(
            "gender",
            manifest,
            kind="sparse",
            metric="accuracy",
            instruction=ask("gender"),
            where={"task": "gender"},
            parts="part",
            max_new_tokens=8,
            summary="gender of the speaker",
        ),
    ]
