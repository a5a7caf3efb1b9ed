"""Encoded recordings on disk: a model's audio tokens of a clip, so that no run encodes what another has encoded.

One safetensors file a recording, named after everything that decides its content. Files are written aside and renamed,
so processes may share the folder; what was used least recently goes when the folder grows over its cap.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastadasp.engine.encoder import EncoderSeen
from fastadasp.errors import RunError
from fastadasp.files import cache_folder, is_file, whole
from fastadasp.version import installed_version

if TYPE_CHECKING:
    from fastadasp.inference.load import LoadedModel

VARIABLE = "FASTADASP_FEATURES"
"""Environment variable: the most that the folder may hold, e.g. ``500MB`` or ``20GB``; 0 for no cache."""
USUAL = "2GB"
T = TypeVar("T")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def cap() -> int:
    """Bytes that the folder may hold. Raises RunError if ``FASTADASP_FEATURES`` is no size."""
    text = os.environ.get(VARIABLE) or USUAL
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", text.strip().upper())
    if found is None:
        raise RunError(f"{VARIABLE} is a size, e.g. 500MB or 20GB, or 0 for no cache, not {text!r}")
    return int(float(found[1]) * _UNITS[found[2] or ""] if found[2] != "B" else float(found[1]))


def _digest(tokens: Tensor) -> str:
    """SHA-256 over values, shape and dtype, so that a damaged file is known."""
    content = tokens.detach().cpu().contiguous()
    about = f"{tuple(content.shape)} {content.dtype}".encode()
    return hashlib.sha256(about + content.view(torch.uint8).numpy().tobytes()).hexdigest()


def _encoder_digest(encoder: EncoderSeen) -> str:
    """The same for what is known of the encoder."""
    return " ".join(_digest(getattr(encoder, field.name)) for field in fields(encoder))


class FeatureCache:
    """The encoded recordings of one model. With a cap of 0 it keeps and finds nothing."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded, self._cap = loaded, cap()
        self.folder = cache_folder() / "features"
        self._asked: dict[Path, Path] = {}
        """The files of recordings as they were when `get` looked for them, before they were encoded."""

    @cached_property
    def _model(self) -> str:
        """What of the model decides its features."""
        import transformers

        loaded = self._loaded
        about = {
            "weights": loaded.weights_hash,
            "config": loaded.model.config.to_json_string(use_diff=False),
            "processor": repr(sorted(loaded.processor.feature_extractor.to_dict().items(), key=str)),
            "dtype": loaded.dtype,
            "device": loaded.device,
            "versions": (installed_version(), torch.__version__, transformers.__version__),
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()

    def _file(self, recording: Path) -> Path:
        with recording.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        name = hashlib.sha256(f"{self._model} {content}".encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.safetensors"

    def has(self, recording: Path) -> bool:
        """Whether there is a file of a recording's audio tokens; `get` says whether it is of use."""
        return bool(self._cap) and is_file(self._file(recording))

    def get(self, recording: Path) -> Tensor | None:
        """The audio tokens of a recording, [N, D] on the host; None if they are not there, or damaged."""
        if self._cap:
            self._asked[recording] = self._file(recording)

        def tokens(kept: Any, about: dict[str, str]) -> Tensor | None:
            found = kept.get_tensor("tokens")
            os.utime(self._asked[recording])  # used now
            usable = about.get("sha256") == _digest(found) and found.ndim == 2 and bool(found.isfinite().all())
            return found if usable else None

        return self._read(recording, tokens)

    def _read(self, recording: Path, what: Callable[[Any, dict[str, str]], T | None]) -> T | None:
        """What a recording's file and its header say; None if it is not there, or damaged."""
        if not self._cap:
            return None
        file = self._asked.get(recording) or self._file(recording)
        if not is_file(file):
            return None
        try:
            with safe_open(file, framework="pt") as kept:
                return what(kept, kept.metadata() or {})
        except (OSError, SafetensorError, KeyError, RuntimeError, ValueError):
            return None

    def encoder(self, recording: Path) -> EncoderSeen | None:
        """What was kept of the encoder's attention, with the same recording's tokens; None if it is not there."""

        def seen(kept: Any, about: dict[str, str]) -> EncoderSeen | None:
            found = EncoderSeen(*(kept.get_tensor(f"encoder.{field.name}") for field in fields(EncoderSeen)))
            return found if about.get("encoder") == _encoder_digest(found) else None

        return self._read(recording, seen)

    def took(self, recording: Path) -> tuple[float, str] | None:
        """The seconds that a recording's tokens took when they were made, and the machine; None if it is not known."""

        def cost(_: Any, about: dict[str, str]) -> tuple[float, str] | None:
            seconds = float(about["seconds"])
            return (seconds, about["machine"]) if isfinite(seconds) and seconds > 0 else None

        return self._read(recording, cost)

    def put(
        self,
        recording: Path,
        tokens: Tensor,
        encoder: EncoderSeen | None = None,
        took: tuple[float, str] | None = None,
    ) -> None:
        """Keeps the audio tokens of a recording, what is known of the encoder's attention, and what they took.

        A folder that cannot be written is done without.

        Nothing is kept of a recording that was replaced since `get` looked for it: nobody knows which was encoded.
        """
        if not self._cap or not is_file(recording):
            return
        file = self._file(recording)
        if file != self._asked.get(recording, file):
            return
        with contextlib.suppress(OSError, SafetensorError):
            file.parent.mkdir(parents=True, exist_ok=True)
            kept, about = {"tokens": tokens.contiguous()}, {"sha256": _digest(tokens)}
            if encoder is not None:
                parts = {f"encoder.{field.name}": getattr(encoder, field.name) for field in fields(encoder)}
                kept |= {name: value.contiguous() for name, value in parts.items()}
                about["encoder"] = _encoder_digest(encoder)
            if took is not None:
                about |= {"seconds": repr(took[0]), "machine": took[1]}
            with whole(file) as part:
                save_file(kept, part, metadata=about)

    def trim(self) -> None:
        """Removes what was used least recently until the folder is below its cap."""
        if not self._cap:
            return
        files = []
        for file in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):  # another process was faster
                about = file.stat()
                files.append((about.st_mtime, about.st_size, file))
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total <= self._cap:
                break
            with contextlib.suppress(OSError):
                file.unlink()
            total -= size
