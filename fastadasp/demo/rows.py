"""The lines of the packaged test set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastadasp.demo import prompts
from fastadasp.errors import DataError


def read_rows(data: Path, tasks: list[str], limit: int | None = None) -> list[dict[str, Any]]:
    """Manifest lines of `tasks`, at most the first `limit` of each."""
    manifest = data / "manifest.jsonl"
    if not manifest.is_file():
        raise DataError(f"there is no test set in {data}: it has no manifest.jsonl")
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [row for task in tasks for row in [r for r in rows if r["task"] == task][:limit]]


def instruction(row: dict[str, Any]) -> str:
    """What is asked about a manifest line: its question, or its task's instruction."""
    return str(row.get("question") or prompts.INSTRUCTIONS[row["task"]][0])
