"""The layouts that can be converted, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastadasp.errors import ModelError, RunError, UnknownNameError

KINDS = {
    "qwen-audio": "a folder of Qwen/Qwen-Audio or Qwen/Qwen-Audio-Chat",
}
"""What each layout is, by its name on the command line."""


def convert(
    kind: str, source: Path, target: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Makes `target`, a folder that `fastadasp.models.load.load_model` opens, of the checkpoint `source`.

    Memory holds one file of the result (about 2 GB) at a time. Cut off half way and called again, it goes on.

    Args:
        kind: one of `KINDS`.
        source: the checkpoint, as its authors publish it.
        target: a folder that is empty, does not exist yet, or was left unfinished by an earlier call.
        progress: called with the bytes written so far and in all.

    Raises:
        UnknownNameError: there is no such kind.
        ModelError: the checkpoint is incomplete, or not what `kind` says.
        RunError: `target` is not empty, or cannot be written.
    """
    if kind not in KINDS:
        raise UnknownNameError("checkpoint layout", kind, KINDS)
    if not source.exists():
        raise ModelError(f"there is no checkpoint {source}; expected {KINDS[kind]}")
    if source.resolve() == target.resolve() or source.resolve() in target.resolve().parents:
        raise RunError(f"the result cannot go into the checkpoint itself: {target}")
    from fastadasp.convert.writer import write

    if not source.is_dir():
        raise ModelError(f"{source} is a file; expected {KINDS[kind]}")
    from fastadasp.convert.qwen_audio import prepare

    write(prepare(source), target, progress=progress)
