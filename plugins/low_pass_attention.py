"""Low-pass attention: what the prompt's last tokens attend to, without fast changes in time (AudioKV)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload

BLOCK = 32
"""Frequencies that are added up at once."""


class LowPassAttention(Scorer):
    """Mean attention of the prompt's last `window` queries to each token, its fast changes in time left out.

    The mean is over the query heads that share a key/value head, too. Of its discrete Fourier transform over the clip's
    n tokens the frequencies up to `cutoff` n / 2 are kept. The transform is a sum over frequencies and not an FFT, so
    that a clip in a padded batch has its own n.

    Source: AudioKV, arXiv 2604.06694, after its abstract: scores smoothed in time by a low-pass filter in the spectrum.
    Which queries are asked, and the cut-off, are ours. At the site ``cache`` each key/value head has scores of its own;
    elsewhere their mean counts.
    """

    name = "low-pass-attention"
    summary = "attention of the prompt's last tokens, low frequencies in time alone"
    formula = (
        "a_j = Σ_{|f| ≤ cutoff n / 2} â_f e^(2πi f j / n); â: Fourier transform of the mean attention of "
        "the last queries"
    )
    source = "AudioKV (arXiv 2604.06694), after its abstract"
    cost = "H w T d for w rows of attention; cutoff N² for each head's spectrum, in blocks that are not kept"
    gives = ("importance",)
    needs = frozenset({"attention", "order"})

    window: int = Field(default=64, ge=1, description="the last queries that are asked")
    cutoff: float = Field(
        default=0.25, ge=0, le=1, description="share of the frequencies that are kept, low ones first"
    )

    def multiply_adds(self, work: Workload) -> int:
        frequencies = (work.tokens // 2 // BLOCK + 1) * BLOCK
        return work.attention_rows(self.window) + 4 * work.kv_heads * work.tokens * frequencies

    def importance(self, layer: LayerView) -> Tensor:
        """Smoothed attention weights, negative ones set to 0, float32 [clips, N]."""
        whole = layer.whole
        columns, real = whole.last_tokens(self.window)
        rows = whole.of_audio(whole.attention_from(columns, real / real.sum(1, keepdim=True)))
        rows = rows.unflatten(1, (whole.keys.shape[2], -1)).mean(2)
        return layer.by_row(self._smooth(rows, whole.valid).clamp_min(0))

    def _smooth(self, rows: Tensor, valid: Tensor) -> Tensor:
        """The low frequencies of rows [clips, heads, N]."""
        import torch

        total = valid.sum(1).view(-1, 1, 1).double()
        rows = (rows * valid.unsqueeze(1)).double()
        steps = torch.arange(valid.shape[1], device=valid.device).view(1, 1, -1)
        smooth = torch.zeros_like(rows)
        for first in range(0, valid.shape[1] // 2 + 1, BLOCK):
            frequency = torch.arange(first, first + BLOCK, device=valid.device).view(1, -1, 1)
            twice = 2.0 - ((frequency == 0) | (2 * frequency == total)).double()  # f and -f, where these differ
            share = twice * (2 * frequency <= self.cutoff * total) / total
            angle = 2 * torch.pi * (frequency * steps % total.long()) / total
            for wave in (angle.cos(), angle.sin()):
                smooth = smooth + ((rows @ wave.transpose(1, 2)) * share.transpose(1, 2)) @ wave
        return smooth.float()
