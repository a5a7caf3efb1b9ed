"""How alike the keys of neighbouring audio tokens are, without a copy of the keys."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadasp.engine.spans import AudioSpans
from fastadasp.kernels import kernels_for

_BLOCK_ELEMENTS = 1 << 18
"""Numbers of the keys looked at in one step (1 MB in float32): they stay in a core's cache."""


def cosine_to_next_key(key: Tensor, spans: AudioSpans) -> Tensor:
    """Cosine of each audio token's key to the next one's, all key/value heads concatenated.

    Args:
        key: [B, key/value heads, T, head_dim], the keys of the sequence that `spans` describes.

    Returns:
        float32 [clips, N - 1]; what stands after a shorter clip's last pair means nothing.
    """
    kernels = kernels_for(key)
    if kernels is not None:
        by_kernel: Tensor = kernels.cosine_to_next_key(key, spans)
        return by_kernel
    batch, groups, length, dim = key.shape
    rows = max(1, _BLOCK_ELEMENTS // (batch * groups * dim))
    # made beforehand: small results between large temporaries would leave holes in the heap
    dot = torch.empty(batch, length - 1, dtype=torch.float32, device=key.device)
    norm = torch.empty(batch, length, dtype=torch.float32, device=key.device)
    for begin in range(0, length, rows):
        block = key[:, :, begin : begin + rows + 1].float()
        dot[:, begin : begin + rows] = torch.linalg.vecdot(block[:, :, :-1], block[:, :, 1:]).sum(1)
        norm[:, begin : begin + rows] = block[:, :, :rows].square().sum((1, 3))
    norm = norm.sqrt_().clamp_min_(1e-12)
    cosine: Tensor = dot / (norm[:, :-1] * norm[:, 1:])
    if cosine.shape[1] == 0:
        return cosine.new_zeros(len(spans.tokens), 0)
    pairs = spans.columns()[0][:, : spans.longest - 1].clamp_max(cosine.shape[1] - 1)
    return cosine[spans.sample.unsqueeze(1), pairs]
