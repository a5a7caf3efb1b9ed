"""``fastadasp cache``: what is kept between runs, how much of it there is, and taking it away."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from fastadasp.cli import options
from fastadasp.cli.terminal import print_listing, say, split
from fastadasp.errors import RunError, did_you_mean
from fastadasp.files import cache_folder

KINDS = {
    "features": "audio tokens of recordings, so that the encoder runs once; FASTADASP_FEATURES is the most",
    "recordings": "recordings of datasets and of samples in memory, as files",
    "datasets": "splits of the hub's datasets that were downloaded",
    "numbers": "recordings of spoken numbers that the embedded tasks put together",
    "layers": "start layers that were chosen",
    "studies": "finished cells of ablate",
}
"""The folders inside, and what they hold."""
ALL = "all"


def cache(
    clear: Annotated[
        str | None, typer.Option(help=f"what to remove, comma-separated: {', '.join(KINDS)}, or {ALL}")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show what is kept between runs in the folder FASTADASP_CACHE, or remove it."""
    home = cache_folder()
    chosen = [] if clear is None else list(KINDS) if clear == ALL else split(clear)
    if clear is not None and not chosen:
        raise RunError(f"--clear is {', '.join(KINDS)}, or {ALL}")
    for name in chosen:
        if name not in KINDS:
            raise RunError(f"--clear is {', '.join(KINDS)}, or {ALL}, not {name!r}.{did_you_mean(name, (*KINDS, ALL))}")
    for name in chosen:
        count, size = weigh(home / name)
        try:
            shutil.rmtree(home / name)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise RunError(f"{home / name} cannot be removed: {error.strerror or error}") from None
        say(f"removed {count} files of {name}, {in_bytes(size)}")
    found = {name: weigh(home / name) for name in KINDS}
    rows = [{"name": name, "files": count, "bytes": size} for name, (count, size) in found.items()]
    if as_json:
        print(json.dumps({"folder": str(home), "kept": rows}, indent=2, ensure_ascii=False))
        return
    shown = [[name, str(count), in_bytes(size), KINDS[name]] for name, (count, size) in found.items()]
    print_listing(f"cache in {home}", ("name", "files", "size", "what"), shown)


def weigh(folder: Path) -> tuple[int, int]:
    """Files in a folder and their bytes together; nothing for one that is not there."""
    count = size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process removed it
            if path.is_file():
                count, size = count + 1, size + path.stat().st_size
    return count, size


def in_bytes(count: int) -> str:
    """A size in the unit that fits, e.g. ``1.2 GB``."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
