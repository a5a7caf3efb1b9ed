"""A task over a manifest: one JSON object a line, as NeMo writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fastadasp.errors import DataError
from fastadasp.tasks.metrics import TALLIES, accuracy, bleu, word_error_rate
from fastadasp.tasks.task import Example, Tally, Task

METRICS: dict[str, tuple[Callable[[Sequence[str], Sequence[str]], dict[str, float]], bool]] = {
    "wer": (word_error_rate, False),
    "bleu": (bleu, True),
    "accuracy": (accuracy, True),
}
"""Headline metric -> (function, whether higher is better)."""


class ManifestTask(Task):
    """Clips and references from a JSONL manifest.

    Each line has ``audio_filepath`` (relative to the manifest) and ``reference`` (or ``text``), and may have ``id``,
    ``question`` (put in place of the instruction) and other labels, which become tags.

    Args:
        where: a line counts if it has these values, e.g. ``{"task": "asr"}``.
        metric: ``wer``, ``bleu`` or ``accuracy``.
        calibration: a manifest of further clips, to choose parameters on.
    """

    def __init__(
        self,
        name: str,
        manifest: Path,
        *,
        kind: Literal["dense", "sparse"],
        metric: str,
        instruction: str,
        where: Mapping[str, Any] | None = None,
        max_new_tokens: int = 64,
        summary: str = "",
        calibration: Path | None = None,
    ) -> None:
        if metric not in METRICS:
            raise DataError(f"task {name!r}: metric is one of {', '.join(METRICS)}, not {metric!r}")
        self.name, self.manifest, self.kind, self.metric = name, Path(manifest), kind, metric
        self.instruction, self.where, self.max_new_tokens, self.summary = (
            instruction,
            where or {},
            max_new_tokens,
            summary,
        )
        self._score, self.higher_is_better = METRICS[metric]
        self._calibration = calibration

    def over(self, manifest: Path) -> ManifestTask:
        """The same question and metric over the clips of another manifest (all of its lines)."""
        return ManifestTask(
            self.name,
            manifest,
            kind=self.kind,
            metric=self.metric,
            instruction=self.instruction,
            max_new_tokens=self.max_new_tokens,
            summary=self.summary,
        )

    def calibration(self, limit: int) -> list[Example]:
        return self.over(self._calibration).examples(limit) if self._calibration else []

    def examples(self, limit: int | None = None) -> list[Example]:
        if not self.manifest.is_file():
            raise DataError(f"task {self.name!r}: there is no manifest {self.manifest}")
        out: list[Example] = []
        for number, line in enumerate(self.manifest.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            row = self._parse(line, number)
            if all(row.get(key) == value for key, value in self.where.items()):
                out.append(self._example(row, number))
            if limit is not None and len(out) == limit:
                break
        if not out:
            raise DataError(f"task {self.name!r}: {self.manifest} holds no clips for it")
        return out

    def tally(self, predictions: Sequence[str], references: Sequence[str]) -> Tally | None:
        return TALLIES[self.metric](predictions, references)

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return self._score(predictions, references)

    def _parse(self, line: str, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{self.manifest}, line {number}: not valid JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise DataError(f"{self.manifest}, line {number}: expected a JSON object")
        return row

    def _example(self, row: dict[str, Any], number: int) -> Example:
        reference = row.get("reference", row.get("text"))
        if not row.get("audio_filepath") or reference is None:
            missing = "audio_filepath" if not row.get("audio_filepath") else "reference"
            raise DataError(f"{self.manifest}, line {number}: {missing!r} is missing")
        known = {"id", "audio_filepath", "reference", "text", "question"}
        return Example(
            id=str(row.get("id", f"{self.name}-{number}")),
            audio=self.manifest.parent / row["audio_filepath"],
            instruction=str(row.get("question", self.instruction)),
            reference=str(reference),
            tags={key: str(value) for key, value in row.items() if key not in known},
        )
