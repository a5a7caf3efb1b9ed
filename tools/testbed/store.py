"""Encoder frames and transcripts as features.py left them, and batches of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tools.testbed.features import MERGE


@dataclass(frozen=True)
class Line:
    """One clip: where its frames lie, what is said, and where the words come from."""

    frames: NDArray[np.float16]
    start: int
    length: int
    text: str
    source: str
    label: str
    split: str

    @property
    def recorded(self) -> bool:
        """Whether a person speaks: the source is a file, and no voice of a synthesiser."""
        return "/" in self.source

    def audio(self) -> Tensor:
        """Four frames side by side, [tokens, 4 * width], float32."""
        rows = np.asarray(self.frames[self.start : self.start + self.length], np.float32)
        return torch.from_numpy(rows).view(len(rows) // MERGE, -1)


def read_store(folders: Sequence[Path], width: int) -> list[Line]:
    """All clips of the folders; a folder that is still being written counts as far as its index goes."""
    lines = []
    for folder in folders:
        values = np.memmap(folder / "frames.f16", np.float16, "r")
        frames = values[: len(values) // width * width].reshape(-1, width)
        for text in (folder / "index.jsonl").read_text().splitlines():
            try:
                about = json.loads(text)
            except json.JSONDecodeError:  # the last line, half written
                break
            if about["start"] + about["frames"] > len(frames):
                break
            rest = (about["text"], about["source"], about["label"], about.get("split", "train"))
            lines.append(Line(frames, about["start"], about["frames"], *rest))
    return lines


def batches(lines: Sequence[Line], tokens: int, seed: int, repeat_real: int = 1) -> Iterator[list[Line]]:
    """For ever: batches of clips of like length, about `tokens` audio tokens each, in an order drawn anew each round.

    Args:
        repeat_real: how often a round shows each recording of a person (those are few).
    """
    if not lines:
        raise ValueError("there are no clips to learn from")
    rng = np.random.default_rng(seed)
    pool = [line for line in lines for _ in range(repeat_real if line.recorded else 1)]
    while True:
        order = sorted(range(len(pool)), key=lambda i: pool[i].length * rng.uniform(0.85, 1.15))
        groups: list[list[Line]] = [[]]
        for i in order:
            longest = max(pool[i].length, *(line.length for line in groups[-1]), 0) // MERGE
            if groups[-1] and longest * (len(groups[-1]) + 1) > tokens:
                groups.append([])
            groups[-1].append(pool[i])
        for g in rng.permutation(len(groups)):
            yield groups[g]


def padded(batch: Sequence[Line]) -> tuple[Tensor, Tensor]:
    """[B, T, 4 * width] with zeros behind each clip, and lengths [B]."""
    audio = [line.audio() for line in batch]
    return torch.nn.utils.rnn.pad_sequence(audio, batch_first=True), torch.tensor([len(a) for a in audio])
