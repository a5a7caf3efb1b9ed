"""Checkpoints, the log, and the learning rate of both stages."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS = "adapter.safetensors"
STATE = "state.pt"


def rate_at(step: int, steps: int, highest: float, warm: int = 50) -> float:
    """Rises for `warm` steps, then falls along half a cosine to a twentieth at the last step."""
    if step < warm:
        return highest * (step + 1) / warm
    share = min(1.0, (step - warm) / max(1, steps - warm))
    return highest * (0.05 + 0.95 * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * share)))))


class Keeper:
    """A training folder: weights that a later stage or session starts from, the state to resume with, and the log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.begun = time.monotonic()

    def save(self, weights: Mapping[str, Tensor], step: int, **state: Any) -> None:
        """Weights in bfloat16 for whoever uses them; the state in full for --resume."""
        rows = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
        for path, write in (
            (self.folder / WEIGHTS, lambda p: save_file(rows, p)),
            (self.folder / STATE, lambda p: torch.save({"step": step, **state}, p)),
        ):
            half = path.with_suffix(".part")
            write(half)
            half.replace(path)

    def state(self) -> dict[str, Any] | None:
        """What --resume goes on with; None where nothing was saved."""
        path = self.folder / STATE
        return torch.load(path, weights_only=True) if path.is_file() else None

    def log(self, **row: Any) -> None:
        row |= {"seconds": round(time.monotonic() - self.begun, 1)}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def weights_of(path: Path) -> dict[str, Tensor]:
    """Weights of a training folder or of one file, float32."""
    file = path / WEIGHTS if path.is_dir() else path
    return {name: tensor.float() for name, tensor in load_file(file).items()}
