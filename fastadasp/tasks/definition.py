"""Tasks from TOML files: what is asked of which data, and how answers are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastadasp.errors import DataError
from fastadasp.files import parse_toml, read_text
from fastadasp.recipes.reading import explain
from fastadasp.registry.checks import name_fault
from fastadasp.tasks.manifest import ManifestTask
from fastadasp.tasks.sources.address import is_address

SUFFIX = ".toml"


class Definition(BaseModel):
    """The keys of a task's file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(description="what the task is called; the file's name unless given")
    summary: str = Field(default="", description="one line for listings")
    data: str | None = Field(default=None, description="where the clips come from, relative to the file")
    kind: Literal["dense", "sparse"] = Field(
        description="`dense` where every word counts, `sparse` where a gist is enough"
    )
    metric: str = Field(
        description="headline metric: `wer`, `clamped_wer`, `cer`, `bleu`, `chrf`, `accuracy`, `f1` or `eer`"
    )
    instruction: str = Field(
        description="what the model is asked; `{labels}`, `{question}` and other columns in braces are filled in"
    )
    normaliser: str | None = Field(
        default=None,
        description="`basic`, `whisper-en`, `whisper-multilingual`, `cjk` or `none`; the metric's usual one unless "
        "given",
    )
    max_new_tokens: int = Field(default=64, ge=1, description="most new tokens of an answer")
    where: dict[str, Any] = Field(default_factory=dict, description="a row counts if it has these values")
    columns: dict[Literal["audio", "second", "reference", "question", "id"], str | list[str]] = Field(
        default_factory=dict,
        description="names of columns that have others than the usual; of several in a list the first that is there",
    )
    options: list[str] = Field(
        default_factory=list,
        description="columns with the options of each question: one that holds a list, or one for each; `{options}` in "
        "the instruction stands for them, and answers are parsed",
    )
    labels: list[str] = Field(
        default_factory=list, description="the options of every clip, without letters; answers are parsed"
    )
    groups: list[str] = Field(default_factory=list, description="columns whose values are also scored apart")
    unit: str = Field(
        default="",
        description="column whose values count as one in intervals and tests, e.g. `speaker`; each recording otherwise",
    )
    keep: list[str] | None = Field(
        default=None,
        description="columns that go into `predictions.jsonl` as tags; all that have no other meaning unless given",
    )
    prompts: dict[str, str] = Field(
        default_factory=dict, description="instructions for certain models instead, by hub id, folder or `model_type`"
    )
    choices: list[str] | None = Field(
        default=None,
        min_length=2,
        max_length=2,
        description="two answers: the prediction is how probable the first is against the second",
    )
    tokenizer: str | None = Field(
        default=None,
        description="for `bleu`: `13a`, `intl`, `zh`, `char`, `ja-mecab`, `ko-mecab` or `none`; the one that fits the "
        "references' script unless given",
    )
    licence: str = Field(default="", description="what the clips may be used for, as their owners say")
    source: str = Field(default="", description="who asks and scores it like this")
    calibration: str | None = Field(
        default=None, description="further clips, to choose parameters on, relative to the file"
    )


def read_task(path: Path) -> ManifestTask:
    """The task that a TOML file defines.

    Raises:
        DataError: with every fault of the file.
    """
    try:
        content = parse_toml(read_text(path))
    except FileNotFoundError:
        raise DataError(f"there is no task file {path}") from None
    except OSError as error:
        raise DataError(f"task file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"task file {path} is not valid TOML: {error}") from None
    try:
        given = Definition.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        faults = explain(error, Definition.model_fields, "key")
        raise DataError(f"task file {path}:" + "".join(f"\n  - {fault}" for fault in faults)) from None
    if fault := name_fault(given.name):
        raise DataError(f"task file {path}: `name`: it {fault}")

    def place(source: str | None) -> str | None:
        return source if source is None or is_address(source) else str(path.parent / source)

    return ManifestTask(
        given.name,
        place(given.data),
        kind=given.kind,
        metric=given.metric,
        instruction=given.instruction,
        where=given.where,
        max_new_tokens=given.max_new_tokens,
        summary=given.summary,
        calibration=place(given.calibration),
        normaliser=given.normaliser,
        columns={str(meaning): n if isinstance(n, str) else tuple(n) for meaning, n in given.columns.items()},
        options=given.options,
        labels=given.labels,
        groups=given.groups,
        unit=given.unit,
        keep=given.keep,
        prompts=given.prompts,
        licence=given.licence,
        source=given.source,
        tokenizer=given.tokenizer,
        choices=None if given.choices is None else (given.choices[0], given.choices[1]),
    )
