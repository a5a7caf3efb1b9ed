"""Files: read with care, written as wholes; recordings in a folder; the folder of what can be made again (layers that
were chosen, cells of studies, features, recordings of datasets)."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from fastadasp.errors import DataError, FastAdaSPError, RunError

VARIABLE = "FASTADASP_CACHE"
"""The environment variable that names another folder."""


UNFINISHED = "unfinished-conversion.json"
"""Stands in a model folder that ``fastadasp convert`` has not finished."""

LARGEST = 1 << 30
"""Most bytes of a text file: 1 GiB. What is larger is no list of clips and no recipe."""

SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au")
"""What is taken from a folder of recordings."""
UNHEARD = (".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".mov", ".amr", ".3gp", ".caf", ".ape")
"""Recordings that soundfile does not read; a folder that holds some is told so."""


def is_file(path: Path) -> bool:
    """Whether there is an ordinary file; False also for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:  # longer than the file system allows
        return False


def recordings_in(folder: Path, *, deep: bool) -> tuple[list[Path], list[Path]]:
    """The recordings in a folder, by path, and those whose format soundfile does not read.

    Files of macOS beside the recordings (``._a.wav``) are none.

    Args:
        deep: whether folders inside it count, too.
    """
    files = sorted(f for f in (folder.rglob("*") if deep else folder.iterdir()) if not f.name.startswith("._"))
    kinds = [[f for f in files if f.suffix.lower() in endings and f.is_file()] for endings in (SOUNDS, UNHEARD)]
    return kinds[0], kinds[1]


def convert_hint(paths: list[Path]) -> str:
    """What to do about recordings that soundfile does not read."""
    first = paths[0].name
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{first}{more}: this format is not read; convert it first, e.g. ffmpeg -i {first} {paths[0].stem}.wav"


def read_text(path: str | os.PathLike[str], encoding: str = "utf-8") -> str:
    """The content of a text file.

    Raises:
        OSError: it cannot be read, is no ordinary file (a pipe would wait for ever, a device never ends), or is larger
            than `LARGEST`. ``strerror`` is a phrase for a message.
        UnicodeDecodeError: it is in another encoding.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(21, "it is a folder", os.fspath(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(22, "it is no ordinary file, but a pipe or a device", os.fspath(path))
    if found.st_size > LARGEST:
        raise OSError(27, f"it has {found.st_size} bytes; at most {LARGEST} are read", os.fspath(path))
    return Path(path).read_text(encoding=encoding)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, which is read again only if it changed. Raises DataError."""
    try:
        about = path.stat()
        return _hash_content(path, about.st_mtime_ns, about.st_size)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


@cache
def _hash_content(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(text: str) -> Any:
    """What JSON text holds. Raises ValueError, in words, for all that Python's reader stumbles over."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg}, line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise ValueError("not usable JSON (nested too deep)") from None
    except ValueError:
        raise ValueError("not usable JSON (a number with too many digits)") from None


def parse_toml(text: str) -> dict[str, Any]:
    """What TOML text holds. Raises ValueError, in words, for all that Python's reader stumbles over."""
    longest = max((len(line.split("=", 1)[0]) for line in text.splitlines()), default=0)
    if longest > 10_000:  # a key of many parts takes time that grows with their square
        raise ValueError(f"a line begins with {longest} characters before its value; a key has at most 10000")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError:
        raise ValueError("it holds a number with too many digits") from None


def is_disk_trouble(error: Exception) -> bool:
    """Whether the disk is at fault: an `OSError`, or what libraries in Rust raise in its place, of their own class."""
    from safetensors import SafetensorError

    return isinstance(error, OSError | SafetensorError) or "os error" in str(error)


@contextmanager
def told(path: Path, what: str = "output folder") -> Iterator[None]:
    """Trouble with the disk, in one sentence."""
    try:
        yield
    except FastAdaSPError:
        raise
    except Exception as error:
        if not is_disk_trouble(error):
            raise
        raise RunError(f"{what} {path} cannot be written: {getattr(error, 'strerror', None) or error}") from None


@contextmanager
def whole(path: Path, part: Path | None = None) -> Iterator[Path]:
    """A file to write into, which becomes `path` in one step when the context ends, and is removed if that fails.

    Whoever looks, and whatever dies, finds the old content or the new, never a piece.

    Args:
        part: where the content is put together, on the same file system; beside `path` if not given.
    """
    part = part or path.with_name(f"{path.name[:40]}.{uuid.uuid4().hex[:8]}.part")  # others may write the same file
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)  # e.g. the disk is full: its beginning is of no use
        raise


def write_whole(path: Path, text: str, part: Path | None = None) -> None:
    """Writes a text file in one step, as `whole` does."""
    with whole(path, part) as made, made.open("w", encoding="utf-8", errors="replace") as file:
        file.write(text)  # a file's name in it may not be UTF-8
        file.flush()
        os.fsync(file.fileno())


def cache_folder() -> Path:
    """The folder that ``FASTADASP_CACHE`` names, else fastadasp's in the platform's cache."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "fastadasp"
