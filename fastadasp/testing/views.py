"""Layers to show to a component: prompts of random content, alone or in a padded batch, as the engine shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from fastadasp.engine.encoder import EncoderSeen
from fastadasp.engine.fingerprints import fingerprint_clips
from fastadasp.engine.rotation import Rotation
from fastadasp.engine.spans import find_spans
from fastadasp.engine.view import LayerView

HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 4, 2, 8, 16
LAYER, LAYERS = 3, 8

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = get_args(Side)


@dataclass(frozen=True)
class Prompt:
    """Text of `text[0]` tokens, clip 0, text of `text[1]` tokens, clip 1, and so on. `seed` makes its content."""

    text: tuple[int, ...]
    clips: tuple[int, ...]
    seed: int

    def span_ids(self) -> list[int]:
        """Which clip each position belongs to, 0 for text."""
        ids: list[int] = []
        for i, count in enumerate(self.text):
            ids += [0] * count + [i + 1] * (self.clips[i] if i < len(self.clips) else 0)
        return ids

    def __len__(self) -> int:
        return sum(self.text) + sum(self.clips)


PROMPTS = (
    Prompt((4, 6), (23,), 1),
    Prompt((3, 5), (1,), 2),
    Prompt((2, 4, 5), (14, 9), 3),
    Prompt((7,), (), 4),
    Prompt((5, 3), (2,), 5),
)
"""Unequal prompts: a clip of one token, two clips in one prompt, none in another."""
WITHOUT_TEXT = (Prompt((0,), (12,), 6), Prompt((0,), (7,), 7))
SINGLE = (Prompt((2, 2), (1,), 8),)
LONG = (Prompt((4, 6), (3000,), 9),)


def view_of(
    prompts: Sequence[Prompt],
    *,
    side: Side = "left",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
    attention: bool = True,
    padding: float = 0.0,
    remove: Sequence[int] | None = None,
) -> LayerView:
    """The layer as a scorer or merger sees it; the content of a prompt is the same in every batch.

    Args:
        side: where shorter prompts are padded.
        seed: the strategy's.
        attention: whether there are queries and keys (before the first layer there are none).
        padding: size of the numbers that stand in the padding.
        remove: tokens that each clip loses; half of them if not given.
    """
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    valid = torch.zeros(len(prompts), width, dtype=torch.bool)
    junk = torch.Generator().manual_seed(99)
    states = padding * torch.randn(len(prompts), width, HIDDEN, generator=junk)
    query = padding * torch.randn(len(prompts), HEADS, width, HEAD_DIM, generator=junk)
    key = padding * torch.randn(len(prompts), KV_HEADS, width, HEAD_DIM, generator=junk)
    value = padding * torch.randn(len(prompts), KV_HEADS, width, HEAD_DIM, generator=junk)
    for row, prompt in enumerate(prompts):
        own = torch.Generator().manual_seed(prompt.seed)
        columns = slice(width - len(prompt), width) if side == "left" else slice(0, len(prompt))
        ids[row, columns], valid[row, columns] = torch.tensor(prompt.span_ids()), True
        states[row, columns] = torch.randn(len(prompt), HIDDEN, generator=own)
        query[row, :, columns] = torch.randn(HEADS, len(prompt), HEAD_DIM, generator=own)
        key[row, :, columns] = torch.randn(KV_HEADS, len(prompt), HEAD_DIM, generator=own)
        value[row, :, columns] = torch.randn(KV_HEADS, len(prompt), HEAD_DIM, generator=own)
    shown = None if bool(valid.all()) else valid
    spans = find_spans(ids, shown)
    removals = tuple(n // 2 for n in spans.tokens) if remove is None else tuple(remove)
    view = LayerView(
        layer_index=LAYER if attention else 0,
        num_layers=LAYERS,
        seed=seed,
        spans=spans,
        query=query.to(dtype) if attention else None,
        key=key.to(dtype) if attention else None,
        states=states.to(dtype),
        scale=HEAD_DIM**-0.5,
        key_valid=shown if attention else None,
        clip_keys=fingerprint_clips(states, spans),
        token_valid=shown,
        remove=torch.tensor(removals, dtype=torch.int64),
        removals=removals,
        value=value.to(dtype) if attention else None,
        rotation=_rotation(valid, dtype) if attention else None,
        encoder=encoder_of(prompts),
    )
    return view if device == "cpu" else moved(view, lambda x: x.to(device))


def encoder_of(prompts: Sequence[Prompt]) -> EncoderSeen:
    """What an encoder of random queries and keys attended to, two frames a token."""
    seen = []
    for prompt in prompts:
        for place, tokens in enumerate(prompt.clips):
            own = torch.Generator().manual_seed(1000 * prompt.seed + place)
            query, key = (torch.randn(1, KV_HEADS, 2 * tokens, HEAD_DIM, generator=own) for _ in range(2))
            seen.append(EncoderSeen.of(query, key, HEAD_DIM**-0.5, None, 2))
    if not seen:
        nothing = torch.zeros(0, dtype=torch.int64)
        return EncoderSeen(torch.zeros(0, 2, 3, 0), torch.zeros(0, 2, 0), torch.zeros(0, 0, HEAD_DIM), nothing)
    return EncoderSeen.together(seen)


def _rotation(valid: Tensor, dtype: torch.dtype) -> Rotation:
    """Rotary embedding of prompts whose tokens are counted from 0, padding left out."""

    def embed(positions: Tensor) -> tuple[Tensor, Tensor]:
        speed = 100.0 ** (-torch.arange(HEAD_DIM // 2, device=positions.device) / (HEAD_DIM // 2))
        angles = (positions.unsqueeze(-1) * speed).repeat(1, 1, 2)
        return angles.cos().to(dtype), angles.sin().to(dtype)

    return Rotation(*embed((valid.cumsum(1) - 1).clamp_min(0)), valid.sum(1), embed)


def moved(view: LayerView, move: Callable[[Tensor], Tensor]) -> LayerView:
    """The view with each of its tensors replaced."""
    given = {field.name: getattr(view, field.name) for field in fields(LayerView) if field.init}
    given = {name: value for name, value in given.items() if not isinstance(value, dict)}  # each view has its own
    given = {name: move(value) if isinstance(value, Tensor) else value for name, value in given.items()}
    spans = view.spans
    given["spans"] = replace(spans, sample=move(spans.sample), start=move(spans.start), counts=move(spans.counts))
    if view.encoder is not None:
        given["encoder"] = EncoderSeen(*(move(getattr(view.encoder, field.name)) for field in fields(EncoderSeen)))
    if view.rotation is not None:
        own = view.rotation
        given["rotation"] = replace(own, cos=move(own.cos), sin=move(own.sin), follows=move(own.follows))
    return LayerView(**given)


def tensors_of(view: LayerView) -> dict[str, Tensor]:
    """What a component must leave as it is."""
    named = {field.name: getattr(view, field.name) for field in fields(view)}
    named |= {f"spans.{field.name}": getattr(view.spans, field.name) for field in fields(view.spans)}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def rows_of(prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, slice]]:
    """Each prompt that has clips, and their rows in the batch."""
    row = 0
    for prompt in prompts:
        if prompt.clips:
            yield prompt, slice(row, row + len(prompt.clips))
            row += len(prompt.clips)


def devices() -> list[str]:
    """The kinds of device that there are here, the CPU first."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def words(view: LayerView, device: str = "") -> str:
    """A batch in words, for messages."""
    dtype = str(view.states.dtype).removeprefix("torch.")
    counts = ", ".join(map(str, view.tokens))
    on = device or view.states.device.type
    return f"clips of {counts} audio tokens, {dtype}, on {on}"
