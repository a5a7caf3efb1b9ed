"""The token timeline: which audio tokens each layer put together, and when in the recording they are."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastadasp.engine.trace import LayerTrace
    from fastadasp.inference.clips import ReadyClip
    from fastadasp.inference.load import LoadedModel
    from fastadasp.strategy import Strategy

BANDS = 64
"""Mel bands of a spectrogram."""
_STEP = 0.01
"""Seconds between two of its columns, in a short recording."""
_COLUMNS = 1200
_FLOOR = -80.0
"""Decibels below the loudest that are drawn as silence."""


@dataclass(frozen=True)
class Timeline:
    """What happened to the audio tokens of one prompt.

    Attributes:
        tokens: audio tokens before the first layer; they divide the recording evenly.
        layers: of each layer that removed tokens, every token's cluster, numbered from 0; -1 for a dropped token.
        trace: token counts of every layer.
    """

    tokens: int
    layers: Mapping[int, list[int]]
    trace: list[LayerTrace]


def follow_tokens(loaded: LoadedModel, strategy: Strategy, clip: ReadyClip) -> Timeline:
    """Runs one prompt through the model (no answer is generated) and follows its audio tokens.

    Raises:
        StrategyError: the strategy does not fit the model, or the clip cannot meet the budget.
    """
    import torch

    device = loaded.device
    spans = clip.span_ids.to(device).unsqueeze(0)
    side = {name: value.to(device).unsqueeze(0) for name, value in clip.side.items()}
    with torch.inference_mode(), strategy.apply(loaded.model, spans=spans, encoder=clip.encoder) as trace:
        trace.keep_assignment = True
        loaded.model(
            inputs_embeds=clip.embeds.to(device).unsqueeze(0),
            attention_mask=torch.ones_like(spans),
            use_cache=True,
            **side,
        )
        sound = clip.span_ids > 0
        found = {layer: where[0].cpu()[sound].tolist() for layer, where in trace.assignments.items()}
        return Timeline(clip.audio_tokens, {layer: _numbered(row) for layer, row in found.items()}, list(trace.layers))


def _numbered(columns: list[int]) -> list[int]:
    """Columns as cluster numbers: 0, 1, ... in the order of their first tokens."""
    numbers: dict[int, int] = {}
    return [-1 if column < 0 else numbers.setdefault(column, len(numbers)) for column in columns]


def spectrogram(wave: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Log-mel spectrogram of a recording [samples] at `rate` Hz: [BANDS, columns], 1 its loudest, 0 at -80 dB."""
    from fastadasp.upstream.sounds import mel_filter_bank, spectrogram, window_function

    hop = max(round(_STEP * rate), -(-len(wave) // _COLUMNS))
    size = 2 ** int(np.ceil(np.log2(max(2.5 * _STEP * rate, 2))))
    width = min(size, round(2.5 * _STEP * rate))
    filters = mel_filter_bank(size // 2 + 1, BANDS, 0.0, rate / 2, rate, mel_scale="htk")
    power = spectrogram(
        np.pad(wave, (0, max(0, size - len(wave)))),
        window_function(width, "hann"),
        width,
        hop,
        fft_length=size,
        power=2.0,
        mel_filters=filters,
    )
    level = 10 * np.log10(np.maximum(power, 1e-10))
    scaled: NDArray[np.float32] = (np.clip(level - level.max(), _FLOOR, 0) / -_FLOOR + 1).astype(np.float32)
    return scaled


def picture(wave: NDArray[np.float32], rate: int) -> str:
    """The spectrogram as a PNG in a data URI."""
    from matplotlib.image import imsave

    out = io.BytesIO()
    imsave(out, spectrogram(wave, rate)[::-1], cmap="magma", vmin=0, vmax=1, format="png")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def plain(timeline: Timeline) -> dict[str, Any]:
    """A timeline for the page's script."""
    return {"tokens": timeline.tokens, "layers": [[layer, row] for layer, row in timeline.layers.items()]}
