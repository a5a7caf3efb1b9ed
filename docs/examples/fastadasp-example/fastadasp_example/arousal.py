"""Arousal: is the speaker excited?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastadasp import ManifestTask

if TYPE_CHECKING:
    from fastadasp.contracts.task import Tally

AROUSAL = {"angry": "high", "happy": "high", "neutral": "low", "sad": "low"}


class Arousal(ManifestTask):
    """The model is asked for the emotion; an answer is right if that emotion has the arousal of the right one."""

    def __init__(self) -> None:
        super().__init__(
            "arousal",
            Path(__file__).parent / "data" / "manifest.jsonl",
            kind="sparse",
            metric="accuracy",
            instruction="How does the speaker feel: angry, happy, neutral or sad?",
            max_new_tokens=8,
            summary="arousal of a German speaker: high (angry, happy) or low (neutral, sad)",
        )

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return super().score(_levels(predictions), _levels(references))

    def tally(self, predictions: Sequence[str], references: Sequence[str]) -> Tally | None:
        return super().tally(_levels(predictions), _levels(references))


def _levels(answers: Sequence[str]) -> list[str]:
    """The arousal of each answer; an answer that names no emotion stays as it is, and is wrong."""
    return [AROUSAL.get(answer.strip().lower(), answer) for answer in answers]
