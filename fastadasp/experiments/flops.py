"""What the shares of FLOPs in a table are taken of."""

from __future__ import annotations

from collections.abc import Sequence

from fastadasp.experiments.axes import FULL
from fastadasp.experiments.standings import Entry


def note(entries: Sequence[Entry]) -> str:
    """What stands below the table: the full model's FLOPs of a clip, without the encoder's and with them."""
    full = next((cost for entry in entries if entry.standing.strategy == FULL for cost in entry.costs), None)
    alone = "" if full is None else f" ({_giga(full.flops)} a clip in the full model)"
    whole = None if full is None else full.flops_with_encoder
    both = "" if whole is None else f" ({_giga(whole)})"
    return f"FLOPs removed: of the decoder's prefill{alone}; in brackets with the encoder's counted too{both}"


def _giga(flops: float) -> str:
    return f"{flops / 1e9:.3g} GFLOPs"
