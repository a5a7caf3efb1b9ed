"""How alike the keys of neighbouring audio tokens are, without a copy of the keys."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadasp.engine.spans import AudioSpans
from fastadasp.kernels import kernels_for


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
    key = key.float()
    dot = torch.linalg.vecdot(key[:, :, :-1], key[:, :, 1:]).sum(1)
    norm = key.norm(dim=(1, 3)).clamp_min(1e-12)
    cosine: Tensor = dot / (norm[:, :-1] * norm[:, 1:])
    if cosine.shape[1] == 0:
        return cosine.new_zeros(len(spans.tokens), 0)
    pairs = spans.columns()[0][:, : spans.longest - 1].clamp_max(cosine.shape[1] - 1)
    return cosine[spans.sample.unsqueeze(1), pairs]
