"""Which kind of pass a call of the decoder is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastadasp.engine import static
from fastadasp.engine.cache import CacheState, Keys, state_of, stored, unreduced
from fastadasp.engine.growing import GrowingPass
from fastadasp.engine.growth import check_growing, resettled
from fastadasp.engine.masks import takes_padding
from fastadasp.engine.passes import HIDES_EARLIER, DecodingPass, FollowingPass, Pass
from fastadasp.engine.reducing import ReducingPass, StaticPass
from fastadasp.engine.spans import AudioSpans, find_spans
from fastadasp.engine.stream import Stream
from fastadasp.errors import ModelError

if TYPE_CHECKING:
    from fastadasp.engine.session import Session

PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx", "block_sequence_ids")
"""Arguments by which transformers is told where prompts that share a row begin and end."""


def begin(
    session: Session,
    *,
    cache: Any,
    past: int,
    size: tuple[int, int],
    mask: Any,
    spans: Tensor | None,
    given: Mapping[str, Any],
    cached: bool,
) -> Pass:
    """The pass that a call of the decoder is.

    Args:
        cache: the key/value cache, None if there is none yet.
        past: tokens that it has seen.
        size: samples and tokens of this call.
        mask: the padding mask [B, past + T], or None.
        spans: int [B, T], which clip each position belongs to; None for a call without audio.
        given: the decoder's keyword arguments.
        cached: whether keys and values are kept.

    Raises:
        ModelError: the call is one that a strategy cannot work with.
    """
    known, length = state_of(cache), size[1]
    tokens = past + length
    if known is None and session.exceeds_window(tokens) and spans is not None and not spans.any():
        spans = None  # a long text is the plain model's affair
    if spans is None and known is None:
        _check_cache(session, cache, past, None)
        return Pass()
    _check_supported(session, mask, cache, tokens)
    _check_cache(session, cache, past, known, step=length == 1)
    if mask is not None and mask.shape[1] != tokens:
        raise ModelError(
            f"the attention mask covers {mask.shape[1]} positions, "
            f"but the cache holds {past} and the prompt adds {length}"
        )
    if known is not None and known.growth is not None:
        known = resettled(cache, known)
    every = None if session.evicting is None else session.evicting.every
    if known is not None and spans is None and length == 1 and not known.padded and known.growth is None:
        return DecodingPass(session, cache, known, size[0], tokens, mask)
    stream, before = _look_at_padding(mask, spans, past, size, earlier=known is None or length > 1)
    fresh = static.is_fresh(cache)
    if known is None:
        plain = [replace(before, plain=not fresh)] * len(session.layers)
        known = CacheState(plain, shown=before.lengths)
    else:
        known = known.settled()
        shown = known.shown_to(size[0])
        if shown and mask is not None and length > 1 and before.lengths != shown:
            raise ModelError(HIDES_EARLIER)
    positions = given.get("position_ids")
    if not stream.spans.tokens and known.growth is not None and every is not None:
        return GrowingPass(session, cache, known, stream, tokens, known.growth, positions)
    if spans is None:
        return FollowingPass(session, cache, known, stream, tokens)
    if every is not None and stream.spans.tokens:
        check_growing(session, static=fresh)
    if stream.spans.tokens:
        _check_packing(session, given, positions if mask is None and not past else None, cached)
    reducing = (StaticPass if fresh else ReducingPass)(session, cache, known, stream, tokens)
    reducing.plan(positions)
    if fresh and not reducing.acts:
        return Pass()
    if fresh:
        static.shorten(cache)
    return reducing


def _check_supported(session: Session, mask: Any, cache: Any, tokens: int) -> None:
    """Refuses what a strategy cannot work with, before the model runs; `tokens` are those of prompt and cache."""
    if session.exceeds_window(tokens):
        raise ModelError(
            f"{type(session.decoder).__name__} has layers that look back {session.window} tokens, but prompt and cache "
            f"have {tokens}; strategies need a prompt that its sliding windows hold"
        )
    if cache is not None and getattr(cache, "is_compileable", False) and not static.is_fresh(cache):
        raise ModelError(
            "a strategy can shorten a static cache that is new, not offloaded and without sliding windows, but not "
            "this one; use the default dynamic cache"
        )
    if isinstance(mask, dict) or (isinstance(mask, Tensor) and mask.dim() != 2):
        raise ModelError("strategies need the plain [batch, tokens] attention mask; custom 4D masks are not supported")


def _check_cache(session: Session, cache: Any, past: int, known: CacheState | None, *, step: bool = False) -> None:
    """Refuses a cache that is not as the last pass left it: its keys could not be told apart.

    Args:
        step: whether this is a decoding step.
    """
    if cache is None:
        return
    count = len(session.layers)
    # whatever crops or copies a cache does so to all of its layers: the ends tell while an answer grows
    asked = (0, count - 1) if known is not None and known.steps and step else range(count)
    expected = [unreduced(cache, i, past) if known is None else known.layers[i].length + known.steps for i in asked]
    if known is not None and past == 0 and any(expected):
        raise ModelError(
            "the cache was reset, but this transformers keeps its columns and only writes zeros into them; make a "
            "new cache for the next prompt"
        )
    if [stored(cache, i) for i in asked] != expected:
        raise ModelError(
            "the cache holds other keys than the last pass with a strategy left in it; a cache of reduced layers "
            "cannot be cropped, copied or filled elsewhere (assisted and prompt lookup decoding do so)"
        )


def _check_packing(session: Session, given: Mapping[str, Any], positions: Tensor | None, cached: bool) -> None:
    """Refuses several prompts in one row.

    A call says so by arguments of its own, or by positions that do not go up by one: without a mask transformers looks
    at them, if there is no cache, and flash attention does so always.
    """
    told = [name for name in PACKED if given.get(name) is not None]
    if told:
        raise ModelError(
            f"{told[0]} tells several prompts in one row apart by their positions, which strategy "
            f"{session.strategy.name!r} moves; give one prompt a row, with an attention_mask"
        )
    looks = not cached or takes_padding(session.implementation)
    if looks and positions is not None and not bool((positions.diff(dim=-1) == 1).all()):
        raise ModelError(
            "position_ids do not go up by one, and without an attention_mask transformers then takes each row for "
            f"several prompts side by side, which strategy {session.strategy.name!r} cannot tell apart; give one "
            "prompt a row, and an attention_mask if its positions have gaps"
        )


def _look_at_padding(
    mask: Tensor | None, spans: Tensor | None, past: int, size: tuple[int, int], *, earlier: bool
) -> tuple[Stream, Keys]:
    """Finds the audio spans and the padding: a pass's only wait for the device, and none in a decoding step.

    Args:
        earlier: whether to look at the padding among earlier tokens, too.

    Returns:
        The tokens of this call, and the keys of the plain model before it.
    """
    batch, length = size
    valid = None if mask is None or length == 1 else mask[:, past:].bool()
    lengths, found = (length,) * batch, AudioSpans.none()
    both = [x for x in (valid, spans) if x is not None]
    host = torch.stack([x.to(torch.int64) for x in both]).cpu() if both else None
    if valid is not None and host is not None:
        lengths = tuple(int(n) for n in host[0].sum(1))
        if min(lengths) == length:
            valid = None
    if spans is not None and host is not None:
        found = find_spans(host[-1], None if valid is None else host[0].bool(), spans.device)
    before = mask[:, :past].bool() if mask is not None and past and earlier else None
    counts = (past,) * batch if before is None else tuple(int(n) for n in before.sum(1).cpu())
    keys = Keys(past, counts, before if min(counts) != past else None)
    return Stream(lengths, length, valid, found), keys
