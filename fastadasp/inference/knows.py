"""What a small model can be asked at all, where its folder says so: other questions get answers that mean nothing.

A general model answers whatever it is asked, and says nothing here. A model that was trained for a few tasks alone may
have a file ``knows.json`` in its folder: for each task what it is about, the instructions it was trained with, and the
words that its answers are made of (if those are few).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastadasp.errors import ModelError
from fastadasp.files import read_text

if TYPE_CHECKING:
    from fastadasp.contracts.task import Example

FILE = "knows.json"


class KnownTask(BaseModel):
    """One thing that a model was trained for.

    Attributes:
        about: what it is, in a few words.
        instructions: what the model was asked in training.
        words: of its answers; empty where they are many.
    """

    model_config = ConfigDict(extra="forbid")

    about: str
    instructions: list[str] = Field(min_length=1)
    words: list[str] = []


@dataclass(frozen=True)
class Knowledge:
    """The tasks of a model, by name; none where it says nothing, and may be asked anything."""

    tasks: dict[str, KnownTask] = field(default_factory=dict)

    def unknown(self, instructions: Iterable[str]) -> str | None:
        """A sentence about instructions that the model was never trained with; None if there are none."""
        trained = {_plain(text) for task in self.tasks.values() for text in task.instructions}
        new = [text for text in dict.fromkeys(instructions) if _plain(text) not in trained]
        if not self.tasks or not new:
            return None
        more = f" (and {len(new) - 1} others)" if len(new) > 1 else ""
        own = "; ".join(f"{name}: {task.about}" for name, task in self.tasks.items())
        return (
            f"{_short(new[0])}{more} is none of the questions that this model was trained for, so its answers mean "
            f"nothing. It knows {len(self.tasks)} tasks only ({own}); --model names another one"
        )

    def beyond(self, examples: Sequence[Example]) -> str | None:
        """A sentence about references with words that the model never answers with; None if there are none."""
        words: dict[str, set[str]] = {}
        for task in self.tasks.values():
            for text in task.instructions:
                words.setdefault(_plain(text), set()).update(map(_plain, task.words))
        missing: dict[str, None] = {}
        count, asked = 0, ""
        for example in examples:
            answers = words.get(_plain(example.instruction))
            new = [w for w in _plain(example.reference).split() if w not in answers] if answers else []
            missing |= dict.fromkeys(new)
            count, asked = count + bool(new), asked or (example.instruction if new else "")
        if not count:
            return None
        own = sorted(words[_plain(asked)])
        listed = ", ".join(own[:12]) + (", ..." if len(own) > 12 else "")
        return (
            f"{count} of {len(examples)} references hold words that this model never says, such as "
            f"{_short(next(iter(missing)))}: asked {_short(asked)}, it says nothing but {listed}. --model names "
            "another model"
        )

    def notes(self, task: str, examples: Sequence[Example]) -> list[str]:
        """What a person should know before the scores of these clips are read: sentences that begin with the task."""
        found = (self.unknown(e.instruction for e in examples), self.beyond(examples))
        return [f"task {task!r}: {sentence}" for sentence in found if sentence is not None]


def knowledge_of(path: str | Path) -> Knowledge:
    """What the model of a folder knows; no tasks for one that does not say, and for a hub id.

    Raises:
        ModelError: its ``knows.json`` cannot be used.
    """
    file = Path(path) / FILE
    try:
        if not file.is_file():
            return Knowledge()
        tasks = _Tasks.model_validate_json(read_text(file)).tasks
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelError(f"{file} does not say what the model knows: {where or 'it'}: {first['msg']}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return Knowledge(tasks)


class _Tasks(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tasks: dict[str, KnownTask] = Field(min_length=1)


def _plain(text: str) -> str:
    """Letters and digits in lower case, one space between words."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
