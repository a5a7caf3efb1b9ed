"""Audio spans: where each clip's audio tokens lie in the decoder's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from fastadasp.errors import ModelError


@dataclass(frozen=True)
class AudioSpans:
    """The audio tokens of a batch, one row a clip.

    Attributes:
        sample: int64 [clips], the batch row of each clip.
        start: int64 [clips], the column of its first audio token. Its tokens lie side by side.
        counts: int64 [clips], its number of audio tokens.
        tokens: `counts` on the host.
        samples: `sample` on the host.
        text: text tokens of each clip's sample, neither audio nor padding, on the host; no reduction changes them.
    """

    sample: Tensor
    start: Tensor
    counts: Tensor
    tokens: tuple[int, ...]
    samples: tuple[int, ...]
    text: tuple[int, ...] = ()

    @classmethod
    def none(cls) -> AudioSpans:
        """No audio."""
        nothing = torch.zeros(0, dtype=torch.int64)
        return cls(nothing, nothing, nothing, (), ())

    @property
    def longest(self) -> int:
        """N, the number of columns of every [clips, N] tensor."""
        return max(self.tokens, default=0)

    def to(self, device: torch.device) -> AudioSpans:
        """The same spans on a device (a model may lie on several)."""
        if self.start.device == device:
            return self
        return replace(self, sample=self.sample.to(device), start=self.start.to(device), counts=self.counts.to(device))

    def reduced(self, start: Tensor, counts: Tensor, tokens: tuple[int, ...]) -> AudioSpans:
        """The same clips after a reduction."""
        return replace(self, start=start, counts=counts, tokens=tokens)

    def columns(self) -> tuple[Tensor, Tensor]:
        """Columns of every clip's tokens, int64 [clips, N], and which of them are real, bool [clips, N].

        The columns of padding entries repeat the clip's first column.
        """
        return self._columns

    @cached_property
    def _columns(self) -> tuple[Tensor, Tensor]:
        steps = torch.arange(self.longest, device=self.start.device)
        valid = steps < self.counts.unsqueeze(1)
        return self.start.unsqueeze(1) + steps * valid, valid

    def per_sample(self, batch: int, tokens: Sequence[int] | None = None) -> tuple[int, ...]:
        """Audio tokens of each batch row (or the sums of other counts per clip)."""
        totals = [0] * batch
        for row, count in zip(self.samples, self.tokens if tokens is None else tokens, strict=True):
            totals[row] += count
        return tuple(totals)


def send(values: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Numbers of the host as int64 on `device`, without waiting for it."""
    host = torch.tensor(values, dtype=torch.int64)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def find_spans(span_ids: Tensor, valid: Tensor | None, device: torch.device | None = None) -> AudioSpans:
    """Builds the spans from span numbers.

    Everything later follows from the counts found here.

    Args:
        span_ids: int [B, T], 0 for text and padding, c for the tokens of the row's c-th clip; on the host, or else this
            waits for the device.
        valid: bool [B, T], False for padding; None if there is none.
        device: of the spans; that of `span_ids` if not given.

    Raises:
        ModelError: a clip's tokens do not lie side by side, or some of them are masked out.
    """
    device = span_ids.device if device is None else device
    ids = span_ids if valid is None else torch.stack([span_ids, valid.to(span_ids.dtype)])
    host = ids.cpu()
    numbers, shown = (host, None) if valid is None else (host[0], host[1].bool())
    rows, starts, counts, text = [], [], [], []
    for row, line in enumerate(numbers.numpy()):
        edges = [0, *((line[1:] != line[:-1]).nonzero()[0] + 1).tolist(), len(line)]
        seen = set()
        for left, right in pairwise(edges):
            clip = int(line[left])
            if clip == 0:
                continue
            if clip in seen:
                raise ModelError(
                    f"audio clip {clip} of sample {row} lies in several pieces; its tokens must be adjacent"
                )
            if shown is not None and not bool(shown[row, left:right].all()):
                raise ModelError(
                    f"the attention mask hides audio tokens of sample {row} (columns {left} to {right - 1}); "
                    "mask padding only"
                )
            seen.add(clip)
            rows.append(row)
            starts.append(left)
            counts.append(right - left)
        plain = (line == 0) if shown is None else (line == 0) & shown[row].numpy()
        text += [int(plain.sum())] * len(seen)
    placed = send([rows, starts, counts], device)
    return AudioSpans(placed[0], placed[1], placed[2], tuple(counts), tuple(rows), tuple(text))
