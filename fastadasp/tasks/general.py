"""Tasks without clips of their own, for data that they are given: ``--tasks transcription=clips.csv``."""

from __future__ import annotations

from fastadasp.contracts.hookspecs import hookimpl
from fastadasp.contracts.task import Task
from fastadasp.tasks.manifest import ManifestTask


@hookimpl
def fastadasp_tasks() -> list[Task]:
    return [
        ManifestTask(
            "transcription",
            None,
            kind="dense",
            metric="wer",
            normaliser="whisper-en",
            instruction="Transcribe the speech into text.",
            max_new_tokens=256,
            summary="English speech recognition on your clips",
        ),
        ManifestTask(
            "translation",
            None,
            kind="dense",
            metric="bleu",
            instruction="Translate the speech into English text.",
            max_new_tokens=256,
            summary="speech translation on your clips",
        ),
        ManifestTask(
            "classification",
            None,
            kind="sparse",
            metric="accuracy",
            instruction="Classify the recording. Answer with one of: {labels}.",
            max_new_tokens=12,
            summary="any classification on your clips: the references are the labels",
        ),
        ManifestTask(
            "qa",
            None,
            kind="sparse",
            metric="accuracy",
            instruction="{question}",
            max_new_tokens=48,
            summary="questions about your clips",
        ),
        ManifestTask(
            "sv",
            None,
            kind="sparse",
            metric="eer",
            instruction="Are the two recordings spoken by the same speaker? Answer yes or no.",
            max_new_tokens=1,
            summary="speaker verification on your pairs of clips",
        ),
    ]
