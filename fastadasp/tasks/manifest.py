"""A task over rows of data, of whatever source."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fastadasp.errors import DataError
from fastadasp.registry.checks import did_you_mean
from fastadasp.tasks.metrics import METRICS
from fastadasp.tasks.normalisers import NORMALISERS
from fastadasp.tasks.pairs import join
from fastadasp.tasks.sources import COLUMNS, REFERENCES, Names, Row, read_rows
from fastadasp.tasks.task import Example, Reading, Tally, Task
from fastadasp.tasks.tokenizers import check_tokenizer

_FIELD = re.compile(r"{(\w+)}")
SHOWN = 10
"""Faults that a message lists."""


class ManifestTask(Task):
    """Clips and references from a manifest, a table, a folder or a dataset (`fastadasp.tasks.sources`).

    Each row has a recording and a reference, and may have an id, a question and other columns, which become tags.
    Columns have the usual names (docs/tasks.md) unless `columns` says otherwise.

    Args:
        manifest: where the rows come from; None for a task that only asks about clips that it is given (`over`).
        where: a row counts if it has these values, e.g. ``{"task": "asr"}``.
        metric: one of `fastadasp.tasks.metrics.METRICS`. With ``eer`` a row has two recordings; the model hears one
            after the other.
        instruction: what the model is asked. ``{labels}`` stands for the references that occur, ``{question}`` or
            another column for its value; without such a place, a row's question takes the place of the instruction.
        normaliser: one of `fastadasp.tasks.normalisers.NORMALISERS`; None for the metric's usual one.
        columns: names of columns by meaning: ``audio``, ``second``, ``reference``, ``question``, ``id``.
        calibration: a source of further clips, to choose parameters on.
        choices: see `Task.choices`; with ``eer``, yes and no unless given.
        tokenizer: for ``bleu``, one of `fastadasp.tasks.tokenizers.TOKENIZERS`; None for the one that fits the script
            of the references.

    Raises:
        DataError: an argument is not one of what is allowed.
    """

    def __init__(
        self,
        name: str,
        manifest: str | Path | None,
        *,
        kind: Literal["dense", "sparse"],
        metric: str,
        instruction: str,
        where: Mapping[str, Any] | None = None,
        max_new_tokens: int = 64,
        summary: str = "",
        calibration: str | Path | None = None,
        normaliser: str | None = None,
        columns: Mapping[str, str] | None = None,
        choices: tuple[str, str] | None = None,
        tokenizer: str | None = None,
    ) -> None:
        for what, value, known in (("metric", metric, METRICS), ("normaliser", normaliser, NORMALISERS)):
            if value is not None and value not in known:
                raise DataError(
                    f"task {name!r}: {what} is one of {', '.join(known)}, not {value!r}.{did_you_mean(value, known)}"
                )
        self.name, self.manifest, self.kind, self.metric = name, manifest, kind, metric
        self.instruction, self.where, self.max_new_tokens, self.summary = (
            instruction,
            where or {},
            max_new_tokens,
            summary,
        )
        self.draws = False
        self.normaliser = normaliser or METRICS[metric].normaliser
        self.columns = columns or {}
        self._names: Names = {"reference": REFERENCES[METRICS[metric].reference], **self.columns}
        self.higher_is_better = METRICS[metric].higher_is_better
        self.choices = choices or (("yes", "no") if metric == "eer" else None)
        self._calibration = calibration
        if tokenizer is not None and METRICS[metric].reference != "translation":
            raise DataError(
                f"task {name!r}: a tokenizer ({tokenizer}) belongs to the metrics bleu and chrf, not {metric}"
            )
        check_tokenizer(tokenizer)
        self.tokenizer = tokenizer
        self._scoring = {"tokenizer": tokenizer} if METRICS[metric].reference == "translation" else {}

    def over(self, manifest: str | Path) -> ManifestTask:
        """The same question and metric over the clips of another source (all of its rows).

        Of files and folders a limit draws its clips: people's lists are often sorted by label.
        """
        made = ManifestTask(
            self.name,
            manifest,
            kind=self.kind,
            metric=self.metric,
            instruction=self.instruction,
            max_new_tokens=self.max_new_tokens,
            summary=self.summary,
            normaliser=self.normaliser,
            columns=self.columns,
            choices=self.choices,
            tokenizer=self.tokenizer,
        )
        made.draws = not str(manifest).startswith("hf:")  # whose rows are written to disk as they are read
        return made

    @property
    def settings(self) -> dict[str, str]:
        named = {} if self.tokenizer is None else {"tokenizer": self.tokenizer}
        return {"normaliser": self.normaliser, "choices": "/".join(self.choices or ()), **named}

    def calibration(self, limit: int) -> list[Example]:
        if not self._calibration:
            return []
        task = self.over(self._calibration)
        task.draws = False  # a packaged list, in a mixed order of its own
        return task.examples(limit)

    def examples(self, limit: int | None = None) -> list[Example]:
        found = self.read(limit)
        if found.faults:
            raise DataError(listing(self.name, found.faults))
        return found.examples

    def read(self, limit: int | None = None) -> Reading:
        if self.manifest is None:
            raise DataError(
                f"task {self.name!r} has no clips of its own; give it some, e.g. --tasks {self.name}=clips.csv"
            )
        examples: list[Example] = []
        faults: list[str] = []
        seen: dict[str, str] = {}
        labels = self._labels() if "{labels}" in self.instruction else ""
        for row in read_rows(self.manifest):
            if isinstance(row, DataError):
                faults.append(str(row))
                continue
            if any(row.values.get(key) != value for key, value in self.where.items()):
                continue
            try:
                example = self._example(row, labels)
                if example.id in seen:
                    raise DataError(f"{row.where}: id {example.id!r} is that of {seen[example.id]}, too")
            except DataError as fault:
                faults.append(str(fault))
                continue
            seen[example.id] = row.where
            examples.append(example)
            if limit is not None and not self.draws and len(examples) == limit:
                break
        if not examples and not faults:
            raise DataError(f"task {self.name!r}: {self.manifest} holds no clips for it")
        if limit is None or limit >= len(examples):
            return Reading(examples, faults)
        drawn = spread(examples, limit)
        references = len({example.reference for example in drawn})
        note = f"task {self.name!r}: {limit} of {len(examples)} clips, drawn with a fixed seed; {references} references"
        return Reading(drawn, faults, note)

    def tally(self, predictions: Sequence[str], references: Sequence[str]) -> Tally | None:
        counts = METRICS[self.metric].tally
        return (
            None if counts is None else counts(predictions, references, NORMALISERS[self.normaliser], **self._scoring)
        )

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        score = METRICS[self.metric].score
        return score(predictions, references, NORMALISERS[self.normaliser], **self._scoring)

    def _labels(self) -> str:
        """The references that occur, in alphabetical order."""
        rows = (row for row in read_rows(self.manifest or "") if isinstance(row, Row))
        return ", ".join(sorted({text for row in rows if (text := row.find("reference", self._names)) is not None}))

    def _example(self, row: Row, labels: str) -> Example:
        audio = row.folder / row.need("audio", self._names)
        if str(row.values.get("offset") or 0).strip("0.") != "":
            raise DataError(f"{row.where}: it begins at an offset inside {audio.name}; cut such clips out first")
        if self.metric == "eer":
            audio = join(audio, row.folder / row.need("second", self._names))
        reference = row.need("reference", self._names)
        meant = {name for meaning in COLUMNS for name in row.names(meaning, self._names)}
        return Example(
            id=row.find("id", self._names) or f"{self.name}-{row.number}",
            audio=audio,
            instruction=self._ask(row, labels),
            reference=reference,
            tags={key: str(value) for key, value in row.values.items() if key not in meant and value is not None},
        )

    def _ask(self, row: Row, labels: str) -> str:
        """The instruction with its places filled, or the row's own question."""
        question = row.find("question", self._names)
        if not _FIELD.search(self.instruction):
            return question or self.instruction
        known = {**row.values, "labels": labels, **({} if question is None else {"question": question})}

        def fill(place: re.Match[str]) -> str:
            if place[1] not in known:
                guess = did_you_mean(place[1], known)
                raise DataError(f"{row.where}: the instruction asks for {place[0]}, which no column has.{guess}")
            return str(known[place[1]])

        return _FIELD.sub(fill, self.instruction)


def spread(examples: Sequence[Example], limit: int) -> list[Example]:
    """`limit` of the examples, drawn with a fixed seed and spread over their references; in the order given.

    Each reference gives one clip in turn, so that labels are drawn in equal shares as far as there are clips.
    """
    order = random.Random(0).sample(range(len(examples)), len(examples))
    turns: dict[str, int] = {}
    ranked = []
    for place, index in enumerate(order):
        reference = examples[index].reference
        turns[reference] = turns.get(reference, 0) + 1
        ranked.append((turns[reference], place, index))
    return [examples[index] for index in sorted(index for _, _, index in sorted(ranked)[:limit])]


def listing(name: str, faults: Sequence[str]) -> str:
    """What is wrong with rows of a task, the first of them in full."""
    rest = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    if len(faults) == 1:
        return f"task {name!r}: {faults[0]} (--skip-bad leaves it out)"
    shown = "".join(f"\n  {fault}" for fault in faults[:SHOWN])
    return f"task {name!r}: {len(faults)} rows cannot be used (--skip-bad leaves them out):{shown}{rest}"
