"""WavLLM's way from sound to the decoder: Whisper and WavLM, each shortened fourfold and adapted, then joined.

Source: ``whisper_encoder.py``, ``wavlm.py`` and ``convolution.py`` of microsoft/SpeechT5, WavLLM. There one clip at a
time is heard; here padding is masked wherever time steps meet (convolutions, WavLM's norm over time), so that a clip
gets in a batch what it gets alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def halved(lengths: Any) -> Any:
    """Time steps after a convolution of kernel 3, stride 2 and padding 1; a tensor or an int."""
    return (lengths - 1) // 2 + 1


def within(lengths: Tensor, width: int) -> Tensor:
    """bool [B, width]: True for the first `lengths` of each row."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


class AudioAdapter(nn.Module):
    """After an encoder: two convolutions that halve the length (gated), a bottleneck with a residual, a projector."""

    def __init__(self, size_in: int, inner: int, size: int, bottleneck: int, output: int) -> None:
        super().__init__()
        self.subsample = nn.ModuleList(
            nn.Conv1d(before, after, 3, stride=2, padding=1)
            for before, after in ((size_in, inner), (inner // 2, 2 * size))
        )
        self.down_layer = nn.Linear(size, bottleneck)
        self.up_layer = nn.Linear(bottleneck, size)
        self.layer_norm = nn.LayerNorm(size)
        self.projector = nn.Linear(size, output)

    def forward(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, D], int [B] -> [B, about T / 4, output], int [B]."""
        for convolution in self.subsample:
            states = states.masked_fill(~within(lengths, states.shape[1]).unsqueeze(-1), 0)
            states = functional.glu(convolution(states.mT), dim=1).mT
            lengths = halved(lengths)
        adapted = self.layer_norm(self.up_layer(functional.gelu(self.down_layer(states))))
        return self.projector(adapted + states), lengths


def whisper_states(encoder: nn.Module, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Whisper's output [B, T, D] for log-mel windows [B, mels, 2 T], and each clip's part of it, int [B].

    As in the original, attention is not masked: Whisper hears the silence after the clip.
    """
    states: Tensor = encoder(features.to(next(encoder.parameters()).dtype)).last_hidden_state
    return states, halved(mask.sum(-1))


def wavlm_states(model: Any, weights: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of all of WavLM's hidden states [B, T, D], weighted by the softmax of `weights` [layers + 1].

    Args:
        values: samples [B, S] at 16 kHz, zeros after the end.
        mask: [B, S], 1 for samples.
    """
    x, lengths = values.to(weights.dtype).unsqueeze(1), mask.sum(-1)
    for layer in model.feature_extractor.conv_layers:
        x = layer.conv(x)
        lengths = (lengths - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
        norm = getattr(layer, "layer_norm", None)
        x = layer.activation(x if norm is None else _norm_over_time(norm, x, lengths))
    x, _ = model.feature_projection(x.mT)
    valid = within(lengths, x.shape[1])
    x = x.masked_fill(~valid.unsqueeze(-1), 0)
    encoder, shares, bias = model.encoder, weights.softmax(0), None
    x = encoder.dropout(encoder.layer_norm(x + encoder.pos_conv_embed(x)))
    mean = shares[0] * x
    for i, layer in enumerate(encoder.layers):
        x, bias = layer(x, attention_mask=valid, position_bias=bias, index=i)
        mean = mean + shares[i + 1] * x
    return mean, lengths


def _norm_over_time(norm: nn.GroupNorm, x: Tensor, lengths: Tensor) -> Tensor:
    """A group norm of one channel a group, over each clip's own time steps; `x` [B, C, T]."""
    valid, wide = within(lengths, x.shape[-1]).unsqueeze(1), x.float()
    count = lengths.view(-1, 1, 1)
    centred = wide - (wide * valid).sum(-1, keepdim=True) / count
    spread = ((centred * valid).pow(2).sum(-1, keepdim=True) / count + norm.eps).rsqrt()
    return (centred * spread).to(x.dtype) * norm.weight.unsqueeze(-1) + norm.bias.unsqueeze(-1)
