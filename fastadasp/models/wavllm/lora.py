"""LoRA that the prompt scales, channel by channel. Source: ``llama.py`` of microsoft/SpeechT5, WavLLM.

The instruction alone, in quotes, goes through the decoder without LoRA; a small network makes one scale a channel of
what comes out (0 to 3, the same for every layer and projection). Then, with the clip, each attention projection is
W x + scale * (x A B). Since the scale differs from prompt to prompt, the LoRA cannot be merged into W, and peft, whose
scale is a constant, has no form for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

HIGHEST_SCALE = 3.0


class ScaleInForce:
    """What the LoRA of all layers is multiplied by at the moment. Each thread answers other prompts and has its own."""

    def __init__(self, head_dim: int) -> None:
        self.head_dim = head_dim
        self._of_thread: dict[int, tuple[Tensor, Tensor]] = {}  # a threading.local could not be copied with the model

    @contextmanager
    def use(self, scale: Tensor) -> Iterator[None]:
        """`scale` [B, D] holds in this thread while the context is open."""
        thread, plain = threading.get_ident(), scale.unsqueeze(1)
        self._of_thread[thread] = plain, halves_of_heads(plain, self.head_dim)
        try:
            yield
        finally:
            del self._of_thread[thread]

    def scale(self, *, rotary: bool) -> Tensor | None:
        """What holds in this thread, [B, 1, D]; None: there is no LoRA.

        Args:
            rotary: its channels in the order of queries and keys, which differs from the checkpoint's: rotary
                embedding there pairs neighbours, here halves of a head.
        """
        held = self._of_thread.get(threading.get_ident())
        return None if held is None else held[rotary]


def halves_of_heads(x: Tensor, head_dim: int) -> Tensor:
    """Channels (last dimension) from neighbours in pairs to halves of each head."""
    turned: Tensor = x.unflatten(-1, (-1, head_dim // 2, 2)).transpose(-1, -2).flatten(-3)
    return turned


class PromptLoRALinear(nn.Linear):
    """A projection without bias, and its LoRA; `rotary` says that queries or keys come out."""

    def __init__(self, size_in: int, size_out: int, rank: int, scale: ScaleInForce, rotary: bool) -> None:
        super().__init__(size_in, size_out, bias=False)
        self.lora_A = nn.Parameter(torch.zeros(size_in, rank))
        self.lora_B = nn.Parameter(torch.zeros(rank, size_out))
        self.in_force, self.rotary = scale, rotary

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, in] -> [B, T, out]."""
        y = super().forward(x)
        scale = self.in_force.scale(rotary=self.rotary)
        return y if scale is None else y + x @ self.lora_A @ self.lora_B * scale


class PromptScale(nn.Module):
    """From the prompt's hidden states to the LoRA's scale."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.fc_1 = nn.Linear(hidden, inner)
        self.fc_2 = nn.Linear(inner, hidden)
        self.attention = nn.Linear(hidden, 1)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[B, T, D], [B, T] with 1 for tokens -> [B, D] between 0 and 3."""
        scale: Tensor = self.fc_2(functional.gelu(self.fc_1(states)))
        weights = self.attention(scale).masked_fill(~mask.bool().unsqueeze(-1), float("-inf")).softmax(1)
        pooled: Tensor = (scale * weights).sum(1).relu()
        return pooled.clamp(max=HIGHEST_SCALE)
