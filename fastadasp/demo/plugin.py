"""The tasks of the embedded model, over its packaged test set."""

from __future__ import annotations

from fastadasp.contracts.hookspecs import hookimpl
from fastadasp.contracts.task import Task
from fastadasp.demo import data_path
from fastadasp.demo.prompts import INSTRUCTIONS
from fastadasp.tasks.manifest import ManifestTask


@hookimpl
def fastadasp_tasks() -> list[Task]:
    manifest = data_path() / "manifest.jsonl"

    def ask(name: str) -> str:
        return INSTRUCTIONS[name][0]

    return [
        ManifestTask(
            "asr",
            manifest,
            kind="dense",
            metric="wer",
            instruction=ask("asr"),
            where={"task": "asr"},
            max_new_tokens=48,
            summary="transcribe spoken numbers of 2 to 20 digits",
        ),
        ManifestTask(
            "st",
            manifest,
            kind="dense",
            metric="bleu",
            instruction=ask("st"),
            where={"task": "st"},
            max_new_tokens=48,
            summary="translate spoken numbers into German",
        ),
        ManifestTask(
            "er",
            manifest,
            kind="sparse",
            metric="accuracy",
            instruction=ask("er"),
            where={"task": "er"},
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
            max_new_tokens=8,
            summary="gender of the speaker",
        ),
    ]
