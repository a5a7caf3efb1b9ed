"""Audio features of the frozen encoder, computed once for all training steps."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tools.demo.audio import RATE, Wave


class FeatureMaker:
    """Computes what the model's own audio tower gives, on as many frames as the clip has.

    The tower runs on 30 s and masks the padding out; the frames of the clip come out the same, several times as fast.
    """

    def __init__(self, tower: Any, extractor: Any) -> None:
        self.tower, self.extractor = tower.eval(), extractor

    @torch.inference_mode()
    def __call__(self, wave: Wave) -> Tensor:
        """Sound [samples] at 16 kHz -> float16 [audio tokens, encoder width]."""
        tower = self.tower
        padded = np.concatenate([wave, np.zeros(1600, np.float32)])[: 30 * RATE]
        mel = self.extractor(padded, sampling_rate=RATE, padding="longest", return_tensors="pt").input_features
        length = _frames(wave)
        hidden = functional.gelu(tower.conv1(mel))
        hidden = functional.gelu(tower.conv2(hidden)).permute(0, 2, 1)[:, :length]
        hidden = hidden + tower.embed_positions.weight[: hidden.shape[1]]
        for layer in tower.layers:
            out = layer(hidden, None)
            hidden = out[0] if isinstance(out, tuple) else out
        hidden = tower.avg_pooler(hidden.permute(0, 2, 1)).permute(0, 2, 1)
        features: Tensor = tower.layer_norm(hidden)[0].half()
        return features

    def tokens(self, wave: Wave) -> int:
        """How many audio tokens a sound [samples] has."""
        return _frames(wave) // 2

    def many(self, waves: Sequence[Wave], workers: int) -> list[Tensor]:
        """Features of several clips, `workers` at a time with one thread each."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(workers) as pool:
                return list(pool.map(self, waves))
        finally:
            torch.set_num_threads(threads)


def _frames(wave: Wave) -> int:
    return (len(wave) // 160 - 1) // 2 + 1
