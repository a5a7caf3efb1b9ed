"""``fastadasp transcribe``: text from recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastadasp.cli import options
from fastadasp.cli.terminal import Bar, say
from fastadasp.errors import DataError, FastAdaSPError, RunError
from fastadasp.files import SOUNDS, convert_hint, recordings_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastadasp.transcribe.speech_model import Transcript


def transcribe(
    files: Annotated[list[Path], typer.Argument(help="recordings (WAV, FLAC, MP3, Ogg...) or folders of them")],
    strategy: Annotated[
        str | None, typer.Option(help="name or TOML file of a strategy; default: the full model")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="how much to remove, as for compare: 0.5, flops=0.3; default: the recipe's")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="what the model is asked; default: to transcribe")] = None,
    window: Annotated[
        float | None, typer.Option(help="seconds answered at a time; longer recordings are cut at silence")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="most new tokens for a window; default: 12 for each second")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="windows at a time")] = 8,
    model: options.Model = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    set_: options.Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a recording, with times")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="do not say on stderr what was removed")] = False,
) -> None:
    """Write down what is said in recordings."""
    from fastadasp.audio import file_seconds
    from fastadasp.inference.load import check_folder

    if strategy is None and (budget is not None or set_):
        raise RunError("--budget and --set are about a strategy; name one with --strategy")
    recipe = None
    if strategy is not None:
        recipe = options.recipe(strategy, set_, budget)
    paths = _recordings(files)
    if model is not None:
        check_folder(model)

    with Bar("loading the model"):
        from fastadasp.transcribe.speech_model import TRANSCRIBE, load_speech_model

        speech = load_speech_model(model, device, dtype)
    if note := speech.loaded.knows.unknown([prompt or TRANSCRIBE]):
        say(f"note: {note}")
    transcripts: list[Transcript] = []
    failed = 0
    with Bar("transcribing", total=sum(map(file_seconds, paths))) as bar:
        answers = speech.transcribe_files(
            paths,
            recipe,
            prompt=prompt or TRANSCRIBE,
            window=window,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            progress=bar.advance,
        )
        for answer in answers:
            if isinstance(answer, FastAdaSPError):
                failed += 1
                say(f"error: {answer}")
                continue
            transcripts.append(answer)
            print(_line(answer, as_json, name=len(paths) > 1), flush=True)
    if not quiet and recipe is not None and transcripts:
        say(_removed(recipe.name, transcripts))
    if failed:
        raise typer.Exit(1 if transcripts else 2)


def _recordings(given: Sequence[Path]) -> list[Path]:
    """The files, and those in the folders; raises DataError where there is none."""
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside, unheard = recordings_in(path, deep=False)
            if not inside:
                hint = f"; {convert_hint(unheard)}" if unheard else ""
                raise DataError(f"folder {path} holds no recording ({', '.join(SOUNDS)}){hint}")
            if unheard:
                say(f"folder {path}: left out: {convert_hint(unheard)}")
            found += inside
        else:
            found.append(path)
    if not any(path.is_file() for path in found):
        raise DataError(f"there is no recording {found[0]}")
    return found


def _line(transcript: Transcript, as_json: bool, *, name: bool) -> str:
    if not as_json:
        return f"{transcript.audio}: {transcript.text}" if name else transcript.text
    shown: dict[str, Any] = {
        "audio": str(transcript.audio),
        "text": transcript.text,
        "seconds": round(transcript.seconds, 3),
        "segments": [{"start": s.start, "end": s.end, "text": s.text} for s in transcript.segments],
        "audio_tokens": transcript.audio_tokens,
        "audio_tokens_left": transcript.audio_tokens_left,
        "flops_removed": 1 - transcript.flops / transcript.flops_full,
    }
    return json.dumps(shown, ensure_ascii=False)


def _removed(name: str, transcripts: Sequence[Transcript]) -> str:
    tokens, left = sum(t.audio_tokens for t in transcripts), sum(t.audio_tokens_left for t in transcripts)
    saved = 1 - sum(t.flops for t in transcripts) / sum(t.flops_full for t in transcripts)
    return f"{name}: {1 - left / tokens:.0%} of the audio tokens, {saved:.0%} of the decoder's prefill FLOPs removed"
