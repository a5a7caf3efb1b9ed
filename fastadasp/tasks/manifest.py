"""A task over rows of data, of whatever source."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal

from fastadasp.contracts.task import CHOOSING, REPORTING, Example, Reading, Tally, Task
from fastadasp.errors import DataError, did_you_mean
from fastadasp.tasks.metrics import METRICS
from fastadasp.tasks.normalisers import NORMALISERS
from fastadasp.tasks.options import find_label, letters, options_of, reference_of, settle
from fastadasp.tasks.pairs import join
from fastadasp.tasks.sources import COLUMNS, REFERENCES, Names, Row, read_rows
from fastadasp.tasks.sources.address import is_address, read_address
from fastadasp.tasks.tokenizers import check_tokenizer

_FIELD = re.compile(r"{(\w+)}")
SHOWN = 10
"""Faults that a message lists."""


class ManifestTask(Task):
    """Clips and references from a manifest, a table, a folder or a dataset (`fastadasp.tasks.sources`).

    Each row has a recording and a reference, and may have an id, a question and other columns, which become tags.
    Columns have the usual names (docs/tasks.md) unless `columns` says otherwise.

    Args:
        manifest: where the rows come from; None for a task that only asks about clips that it is given (`over`). Of a
            dataset of the hub, a folder given to `over` may be a copy: its configuration and split are then taken.
        where: a row counts if it has these values, e.g. ``{"task": "asr"}``.
        metric: one of `fastadasp.tasks.metrics.METRICS`. With ``eer`` a row has two recordings; the model hears one
            after the other.
        instruction: what the model is asked. ``{labels}`` stands for the references that occur, ``{question}`` or
            another column for its value; without such a place, a row's question takes the place of the instruction.
        normaliser: one of `fastadasp.tasks.normalisers.NORMALISERS`; None for the metric's usual one.
        columns: names of columns by meaning: ``audio``, ``second``, ``reference``, ``question``, ``id``.
        calibration: a source of further clips, to choose parameters on.
        choices: see `Task.choices`; with ``eer``, yes and no unless given.
        options: columns with the options of each question: one that holds a list, or one for each option. Answers are
            then parsed (`fastadasp.tasks.options.find`), ``{options}`` in the instruction stands for them, one a line
            with its letter, and `score` also gives ``no_answer``, the percentage that names none of them.
        labels: the same options for every clip, without letters, e.g. emotions.
        groups: see `Task.groups`: columns whose values are also scored apart.
        unit: see `Task.unit`: the column whose values are independent of each other.
        keep: the columns that become tags; None for all.
        prompts: instructions that certain models get instead, by hub id, name of the folder, or ``model_type``.
        licence: what the clips may be used for, for people.
        parts: the column that says which part of the clips a row belongs to, ``choosing`` or ``reporting`` (see
            `Task.part`). Without a `calibration` of its own, the task calibrates on the part for choosing.
        usual: see `Task.usual`.
        source: who asks and scores it like this; a task with a source is one of a public benchmark.
        tokenizer: for ``bleu``, one of `fastadasp.tasks.tokenizers.TOKENIZERS`; None for the one that fits the script
            of the references.

    Raises:
        DataError: an argument is not one of what is allowed.

    Example::

        >>> task = fastadasp.get_registry().get("task", "er")
        >>> task.examples(1)[0].reference in ("angry", "happy", "neutral", "sad")
        True
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
        columns: Names | None = None,
        choices: tuple[str, str] | None = None,
        tokenizer: str | None = None,
        options: Sequence[str] = (),
        labels: Sequence[str] = (),
        groups: Sequence[str] = (),
        unit: str = "",
        keep: Sequence[str] | None = None,
        prompts: Mapping[str, str] | None = None,
        licence: str = "",
        source: str = "",
        parts: str = "",
        usual: int | None = None,
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
        self.draws, self.revision = False, ""
        self.home = str(manifest) if is_address(manifest) else None
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
        self.options, self.labels, self.groups = tuple(options), tuple(labels), tuple(groups)
        self.unit, self.usual = unit, usual
        self.parts, self.part = parts, REPORTING if parts else ""
        self.keep, self.prompts, self._asked = keep, dict(prompts or {}), False
        self.licence, self.source = licence, source
        if (options or labels) and METRICS[metric].reference != "label":
            raise DataError(f"task {name!r}: options and labels belong to the metrics accuracy and f1, not {metric}")
        if options and labels:
            raise DataError(f"task {name!r}: it names columns with options and labels; a task has one of the two")
        needed = [*groups, *([unit] if unit else [])]
        if keep is not None and (lost := [column for column in needed if column not in keep]):
            raise DataError(f"task {name!r}: `keep` leaves out {lost[0]!r}, which its groups or its unit are made by")

    def over(self, manifest: str | Path) -> ManifestTask:
        """The same question and metric over the clips of another source (all of its rows).

        Of files and folders a limit draws its clips: people's lists are often sorted by label.
        """
        made = copy(self)
        made.manifest, made.where, made._calibration = manifest, {}, None
        made.parts = made.part = ""
        made.usual = None
        # rows of the hub are written to disk as they are read; a copy of them gives the same first clips
        made.draws = self.home is None and not is_address(manifest)
        return made

    def at(self, revision: str) -> ManifestTask:
        """The same task over another revision of its dataset. Raises DataError if it has none."""
        if self.home is None or str(self.manifest) != self.home:
            raise DataError(f"task {self.name!r} has no dataset of the hub to take the revision {revision!r} of")
        made = copy(self)
        made.manifest = made.home = read_address(self.home).at(revision)
        if is_address(self._calibration) and read_address(str(self._calibration)).name == read_address(self.home).name:
            made._calibration = read_address(str(self._calibration)).at(revision)
        return made

    def asking(self, instruction: str) -> ManifestTask:
        """The same task with another instruction for all of its clips, whatever their own questions are."""
        made = copy(self)
        made.instruction, made.prompts, made._asked = instruction, {}, True
        return made

    def for_model(self, names: Sequence[str]) -> ManifestTask:
        """The same task with the instruction that a model gets: that of the first of its names that has one."""
        made = copy(self)
        made.instruction = next((self.prompts[name] for name in names if name in self.prompts), self.instruction)
        return made

    @property
    def settings(self) -> dict[str, str]:
        named = {} if self.tokenizer is None else {"tokenizer": self.tokenizer}
        if self.options or self.labels:
            named["options"] = ", ".join(self.options or self.labels)
        if self.unit:
            named["unit"] = self.unit
        return {"normaliser": self.normaliser, "choices": "/".join(self.choices or ()), **named}

    def calibration(self, limit: int) -> list[Example]:
        if not self._calibration:
            return self.of_part(CHOOSING).examples(limit) if self.part == REPORTING else []
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
            where = f" ({self.source})" if self.source else ""
            raise DataError(
                f"task {self.name!r} has no clips of its own; give it some, e.g. --tasks {self.name}=clips.csv{where}"
            )
        examples: list[Example] = []
        faults: list[str] = []
        reasons: set[str] = set()
        seen: dict[str, str] = {}
        labels = self._labels() if "{labels}" in self.instruction else ""
        wanted = {**self.where, **({self.parts: self.part} if self.parts else {})}
        self.revision, likely = "", None if self.draws or wanted else limit
        for row in self._rows(likely):
            if isinstance(row, DataError):
                faults.append(str(row))
                continue
            self.revision = row.revision
            if any(row.values.get(key) != value for key, value in wanted.items()):
                continue
            try:
                example = self._example(row, labels)
                if example.id in seen:
                    raise DataError(f"{row.where}: id {example.id!r} is that of {seen[example.id]}, too")
            except DataError as fault:
                faults.append(str(fault))
                reasons.add(str(fault).removeprefix(f"{row.where}: "))
                continue
            seen[example.id] = row.where
            examples.append(example)
            if limit is not None and not self.draws and len(examples) == limit:
                break
        if not examples and len(reasons) == 1 and len(faults) > 1:  # a column that is not there, say
            raise DataError(f"task {self.name!r}: {self.manifest}: {reasons.pop()} (in all {len(faults)} rows)")
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
        if counts is None:
            return None
        if self._parses:
            predictions, references, _ = settle(predictions, references, self.labels)
        return counts(predictions, references, NORMALISERS[self.normaliser], **self._scoring)

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        score, normaliser = METRICS[self.metric].score, NORMALISERS[self.normaliser]
        if not self._parses:
            return score(predictions, references, normaliser, **self._scoring)
        predictions, references, unclear = settle(predictions, references, self.labels)
        rate = 100 * unclear / max(len(predictions), 1)
        return {**score(predictions, references, normaliser), "no_answer": rate}

    @property
    def _parses(self) -> bool:
        return bool(self.options or self.labels) and self.choices is None

    def _rows(self, limit: int | None = None) -> Iterator[Row | DataError]:
        wanted = None if self.home is None else read_address(self.home)
        return read_rows(self.manifest or "", limit=limit, wanted=wanted)

    def _labels(self) -> str:
        """The task's labels; without, the references that occur, in alphabetical order."""
        if self.labels:
            return ", ".join(self.labels)
        rows = (row for row in self._rows() if isinstance(row, Row))
        return ", ".join(sorted({text for row in rows if (text := row.find("reference", self._names)) is not None}))

    def _example(self, row: Row, labels: str) -> Example:
        audio = row.folder / row.need("audio", self._names)
        if str(row.values.get("offset") or 0).strip("0.") != "":
            raise DataError(f"{row.where}: it begins at an offset inside {audio.name}; cut such clips out first")
        if self.metric == "eer":
            audio = join(audio, row.folder / row.need("second", self._names))
        reference = row.need("reference", self._names)
        options: list[str] = []
        if self.options:
            options = options_of(row.values, self.options, row.where)
            reference = reference_of(reference, options, row.where)
        elif self.labels and find_label(reference, self.labels) is None:
            raise DataError(f"{row.where}: the answer {reference!r} is none of {', '.join(self.labels)}")
        meant = {name for meaning in COLUMNS for name in row.names(meaning, self._names)}
        if self.keep is not None:
            meant = {name for name in row.values if name not in self.keep}
        for name in (*self.groups, *([self.unit] if self.unit else []), *(self.keep or ())):
            if name not in row.values:
                raise DataError(f"{row.where}: there is no column {name!r}. It has: {row.listing}")
        return Example(
            id=row.find("id", self._names) or f"{self.name}-{row.number}",
            audio=audio,
            instruction=self._ask(row, labels, options),
            reference=reference,
            tags={key: str(value) for key, value in row.values.items() if key not in meant and value is not None},
        )

    def _ask(self, row: Row, labels: str, options: Sequence[str]) -> str:
        """The instruction with its places filled, or the row's own question."""
        question = row.find("question", self._names)
        if not _FIELD.search(self.instruction):
            return self.instruction if self._asked or question is None else question
        known = {**row.values, "labels": labels, **({} if question is None else {"question": question})}
        if options:
            known["options"] = letters(options)

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
