"""Where choices are kept: one JSON file each, in a folder of the platform's cache."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastadasp.files import cache_folder, read_text, write_whole
from fastadasp.selection.choice import Selection

Notice = Callable[[str], None]
"""Is told, in a sentence, what a person should know."""

_MEANINGS = {
    "format": "its format",
    "model_hash": "the model's weights",
    "dtype": "the number format",
    "device": "the device",
    "version": "the version of fastadasp",
    "sources": "the source of the recipe's parts",
    "strategy_hash": "the recipe",
    "clips": "the calibration clips",
    "clips_from": "where the calibration clips come from",
}
"""What makes an entry stale."""

_CHECKSUM = "sha256"
"""The key of a file's checksum, taken over all other keys."""


def warn(message: str) -> None:
    """The usual `Notice`: a Python warning."""
    warnings.warn(message, stacklevel=2)


def entry_path(label: str, identity: Mapping[str, Any]) -> Path:
    """The file of a choice. `identity` says which choice it is; all else, if it changes, makes the entry stale."""
    text = json.dumps(dict(identity), sort_keys=True, ensure_ascii=False)
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in label)
    return cache_folder() / "layers" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_entry(path: Path, wanted: Mapping[str, Any], notice: Notice) -> Selection | None:
    """The entry, if there is one and it was made from what is `wanted` (fields of `Selection`).

    One that is stale, damaged or not as it was written is reported and not used.
    """
    try:
        content = json.loads(read_text(path))
        said = content.pop(_CHECKSUM, None) if isinstance(content, dict) else None
        found = Selection.model_validate(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):  # pydantic's and JSON's errors are ValueErrors
        notice(f"cached layer choice {path} cannot be read; it is made anew")
        return None
    if said != _checksum(content):
        notice(f"cached layer choice {path} is not as it was written; it is made anew")
        return None
    changed = [_MEANINGS.get(field, field) for field, value in wanted.items() if getattr(found, field) != value]
    if changed:
        notice(f"cached layer choice {path} is stale (changed: {', '.join(changed)}); it is made anew")
        return None
    return found


def write_entry(path: Path, selection: Selection, notice: Notice) -> None:
    """Writes an entry in one step; a cache that cannot be written is reported and done without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = selection.model_dump(mode="json")
        text = json.dumps({**content, _CHECKSUM: _checksum(content)}, indent=2, ensure_ascii=False)
        write_whole(path, text + "\n")
    except OSError as error:
        notice(f"layer choice cannot be cached in {path.parent}: {error.strerror or error}")
