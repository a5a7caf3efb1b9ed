"""The layouts that can be converted, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastadasp.errors import ModelError, RunError, UnknownNameError

KINDS = {
    "qwen-audio": "a folder of Qwen/Qwen-Audio or Qwen/Qwen-Audio-Chat",
    "wavllm": "the fairseq checkpoint of WavLLM (final.pt), or a folder with it",
}
"""What each layout is, by its name on the command line."""


def convert(
    kind: str,
    source: Path,
    target: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    llama: Path | None = None,
) -> None:
    """Makes `target`, a folder that `fastadasp.inference.load.load_model` opens, of the checkpoint `source`.

    Memory holds one file of the result (about 2 GB) at a time. Cut off half way and called again, it goes on.

    Args:
        kind: one of `KINDS`.
        source: the checkpoint, as its authors publish it.
        target: a folder that is empty, does not exist yet, or was left unfinished by an earlier call.
        progress: called with the bytes written so far and in all.
        llama: for ``wavllm``, a folder of LLaMA-2-7B in transformers' form, for its tokenizer.

    Raises:
        UnknownNameError: there is no such kind.
        ModelError: the checkpoint is incomplete, or not what `kind` says.
        RunError: `target` is not empty, or cannot be written, or `llama` has no use for `kind`.
    """
    if kind not in KINDS:
        raise UnknownNameError("checkpoint layout", kind, KINDS)
    if llama is not None and kind != "wavllm":
        raise RunError(f"--llama is for wavllm; {kind} needs no other model")
    if not source.exists():
        raise ModelError(f"there is no checkpoint {source}; expected {KINDS[kind]}")
    if source.is_file() and kind == "qwen-audio":
        raise ModelError(f"{source} is a file; expected {KINDS[kind]}")
    if llama is not None and not llama.is_dir():
        raise ModelError(f"there is no folder {llama}; expected LLaMA-2-7B in transformers' form")
    for given in (source, llama):
        if given is not None and given.resolve() in (target.resolve(), *target.resolve().parents):
            raise RunError(f"the result cannot go into {given} itself: {target}")
    from fastadasp.convert import qwen_audio, wavllm, writer

    conversion = wavllm.prepare(source, llama) if kind == "wavllm" else qwen_audio.prepare(source)
    writer.write(conversion, target, progress=progress)
