"""The contract of a task: which clips, which question, how answers are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from fastadasp.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


CHOOSING, REPORTING = "choosing", "reporting"
"""Parts of a task's clips: those that layers and thresholds are chosen on, and those that results are reported on."""


@dataclass(frozen=True)
class Example:
    """One clip with its question.

    Attributes:
        id: unique inside the task.
        audio: path of the recording (anything soundfile reads).
        instruction: what the model is asked, in plain text; the model's own chat template wraps it.
        reference: the right answer.
        tags: anything worth grouping by (``speaker``, ``seen_speaker``...).

    Example::

        >>> fastadasp.Example(id="1", audio=Path("talk.mp3"), instruction="Transcribe.", reference="one two").tags
        {}
    """

    id: str
    audio: Path
    instruction: str
    reference: str
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """What was found where a task's clips come from: the examples, and of each row that is none, why."""

    examples: list[Example]
    faults: list[str] = field(default_factory=list)
    note: str = ""
    """What a person should know of the choice of clips."""


@dataclass(frozen=True)
class Tally:
    """A metric as counts that add up over clips.

    Attributes:
        counts: float64 [clips, counts].
        total: from the sums over some clips, [counts], to the metric.
    """

    counts: NDArray[np.float64]
    total: Callable[[NDArray[np.float64]], float]


class Task(ABC):
    """A set of clips with questions and a metric. Subclass it, or use `ManifestTask`.

    Example::

        >>> task = fastadasp.get_registry().get("task", "asr")
        >>> task.metric, task.higher_is_better
        ('wer', False)
    """

    name: str
    kind: Literal["dense", "sparse"]
    """Dense tasks need every word (ASR, translation); sparse ones a gist (emotion, questions)."""
    summary: str = ""
    metric: str
    """The headline key of `score`, e.g. ``wer``."""
    higher_is_better: bool
    max_new_tokens: int
    choices: tuple[str, str] | None = None
    """Two answers to choose from. A prediction is then no text, but how probable the first is against the second, as
    the model's first new token has it: ``0.8731``."""
    groups: tuple[str, ...] = ()
    """Tags whose values are also scored apart (`fastadasp.tasks.groups.group_scores`), e.g. ``domain``."""

    revision: str = ""
    """The commit of the hub's dataset that the clips were read from, once they were; empty for other sources."""

    unit: str = ""
    """The tag that says which clips are not independent of each other, e.g. ``speaker``: intervals and tests then count
    its values and not clips. Where it is empty, each recording counts as one."""

    part: str = ""
    """Which part of its clips the task reads: `CHOOSING`, or `REPORTING`, which a task that has both begins with. Empty
    for a task whose clips are not parted."""

    usual: int | None = None
    """How many clips a comparison takes where nothing is said; None for all."""

    def of_part(self, part: str) -> Self:
        """The same task over another part of its clips.

        Raises:
            DataError: there is no such part, or the task's clips are not parted.
        """
        if part not in (CHOOSING, REPORTING):
            guess = did_you_mean(part, (CHOOSING, REPORTING))
            raise DataError(f"a part of a task's clips is {CHOOSING} or {REPORTING}, not {part!r}.{guess}")
        if not self.part:
            raise DataError(f"task {self.name!r} does not part its clips into {CHOOSING} and {REPORTING}")
        made = copy(self)
        made.part = part
        return made

    @property
    def settings(self) -> dict[str, str]:
        """What else decides a score, beside metric and class: it is part of what names a cell of a study."""
        return {}

    def read(self, limit: int | None = None) -> Reading:
        """The examples as `examples` gives them, and what is wrong with other rows. Raises DataError."""
        return Reading(self.examples(limit))

    @abstractmethod
    def examples(self, limit: int | None = None) -> list[Example]:
        """The clips, always in the same order; the first `limit` of them if given. Raises DataError."""

    def calibration(self, limit: int) -> list[Example]:
        """Up to `limit` clips to choose parameters on, none of them among `examples`; empty if the task has none."""
        return []

    def tally(self, predictions: Sequence[str], references: Sequence[str]) -> Tally | None:
        """The headline metric as counts that add up over clips, for quick intervals; None if it has no such form."""
        return None

    @abstractmethod
    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Metrics by name, in percent or points as the field prints them (WER 2.5 means 2.5 %)."""
