"""Boards: rows of many submissions that may be compared, ranked, with what is best for its cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fastadasp.leaderboard.submission import Asked, Row, Submission

COSTS = {
    "flops": "FLOPs of the decoder's prefill",
    "kv_bytes": "bytes of keys and values",
    "prefill_seconds": "prefill",
}
"""What quality is set against."""


@dataclass
class Entry:
    """A row on a board.

    Attributes:
        rank: one more than the rows that are surely better: their intervals lie apart. Equal ranks cannot be told
            apart.
        fronts: the costs of `COSTS` for which no other row is at least as good and cheaper.
        change: the value less that of the same submission's full model; None if it has none.
    """

    submission: Submission
    row: Row
    rank: int = 0
    fronts: frozenset[str] = frozenset()
    change: float | None = None

    @property
    def machine(self) -> tuple[object, ...]:
        """What must be equal for times to be compared."""
        about = self.submission
        return (about.machine.name, about.machine.threads, about.machine.batch_size, about.model.dtype)


@dataclass
class Board:
    """Rows of one task over the same clips, asked the same and scored the same.

    Attributes:
        task: of the first submission.
        apart: in which way it differs from other boards of the same name, for people; empty if there is none.
    """

    task: Asked
    entries: list[Entry]
    apart: list[str] = field(default_factory=list)


def boards_of(submissions: Sequence[Submission]) -> list[Board]:
    """The boards of some submissions, by task, in the order of their first rows; each board's rows by rank.

    The same submission twice counts once.
    """
    found: dict[tuple[object, ...], Board] = {}
    for one in {submission.checksum: submission for submission in submissions}.values():
        for task in one.tasks:
            board = found.setdefault(_key(task), Board(task, []))
            rows = [row for row in one.rows if row.task == task.name]
            full = next((row.value for row in rows if row.recipe is None), None)
            board.entries += [
                Entry(one, row, change=None if full is None or row.recipe is None else row.value - full) for row in rows
            ]
    boards = [board for board in found.values() if board.entries]
    for board in boards:
        _rank(board)
        board.apart = _apart(board, [b for b in boards if b is not board and b.task.name == board.task.name])
    order = list(dict.fromkeys(board.task.name for board in boards))
    return sorted(boards, key=lambda board: order.index(board.task.name))


def _key(task: Asked) -> tuple[object, ...]:
    facts = task.facts
    return (task.name, facts.metric, tuple(sorted(facts.settings.items())), facts.data, facts.questions)


def _apart(board: Board, others: Iterable[Board]) -> list[str]:
    """What keeps a board apart from others of its name."""
    mine, reasons = board.task.facts, []
    for other in others:
        its = other.task.facts
        if mine.data != its.data:
            reasons.append(f"other clips ({board.task.clips} and {other.task.clips})")
        if mine.questions != its.questions:
            reasons.append("other questions")
        if mine.metric != its.metric or mine.settings != its.settings:
            reasons.append("another metric or other settings of it")
    return list(dict.fromkeys(reasons))


def _rank(board: Board) -> None:
    """Gives ranks and fronts, and sorts the rows."""
    sign = 1 if board.task.facts.higher_is_better else -1
    for entry in board.entries:
        entry.rank = 1 + sum(_surely_better(other.row, entry.row, sign) for other in board.entries)
        entry.fronts = frozenset(cost for cost in COSTS if _on_front(entry, board.entries, cost, sign))
    board.entries.sort(key=lambda entry: (entry.rank, -sign * entry.row.value))


def _surely_better(one: Row, other: Row, sign: int) -> bool:
    """Whether a row is better than another, and their intervals lie apart.

    Where neither has one, the clips are too few. Rows of a board are over the same clips, so if one has an interval and
    the other, at 0 or 100, has none, all clips of the other score alike: its value stands for the interval.
    """
    spans = [row.interval or ((row.value, row.value) if row.value in (0, 100) else None) for row in (one, other)]
    mine, its = spans
    if mine is None or its is None or (one.interval is None and other.interval is None):
        return False
    return mine[0] > its[1] if sign > 0 else mine[1] < its[0]


def _on_front(entry: Entry, entries: Sequence[Entry], cost: str, sign: int) -> bool:
    """Whether no other row is at least as good and as cheap, and better in one of the two."""
    own = getattr(entry.row, cost)
    if own is None:
        return False
    for other in entries:
        its = getattr(other.row, cost)
        if its is None or (cost == "prefill_seconds" and other.machine != entry.machine):
            continue
        good, cheap = sign * (other.row.value - entry.row.value), own - its
        if good >= 0 and cheap >= 0 and (good > 0 or cheap > 0):
            return False
    return True
