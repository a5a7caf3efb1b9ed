"""Isolation: how far a token is from the one most like it (where DivPrune starts)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from fastadasp import Scorer, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView
    from fastadasp.contracts.components import Need, ScoreKind


class Isolation(Scorer):
    """1 - max over the clip's other tokens i of cosine(x_j, x_i); x are hidden states, or keys.

    With `among` = ``odd`` only every second token is compared with (the first is even), as bipartite matching does, and
    with a `window` only tokens of the same window of so many tokens, inside which odd and even are counted.

    Source: the first pick of Alvar et al., DivPrune, CVPR 2025; with ``odd`` the order in which ToMe (Bolya et al.,
    ICLR 2023) takes its edges. Streamed over blocks of tokens: time grows with the square of the clip's length, memory
    does not. A token with nothing to compare with gets 2.
    """

    name: ClassVar[str] = "isolation"
    summary: ClassVar[str] = "cosine distance to the most alike other token"
    gives: ClassVar[tuple[ScoreKind, ...]] = ("importance",)

    among: Literal["all", "odd"] = "all"
    of: Literal["hidden", "keys"] = "hidden"
    window: int | None = Field(default=None, ge=2)

    def needed(self) -> frozenset[Need]:
        places: tuple[Need, ...] = ("order",) if self.among == "odd" or self.window is not None else ()
        return frozenset({*places, *(("attention",) if self.of == "keys" else ())})

    def importance(self, layer: LayerView) -> Tensor:
        """Distances in [0, 2], float32 [clips, N]."""
        import torch

        from fastadasp.ops import nearest

        among = layer.valid
        if self.among == "odd":
            place = torch.arange(among.shape[1], device=among.device)
            among = among & ((place % (self.window or len(place) + 1)) % 2 == 1)
        x = layer.hidden if self.of == "hidden" else layer.keys
        return 1 - nearest(x, among, self.window)[1].clamp_min(-1)


@hookimpl
def fastadasp_scorers() -> list[type[Scorer]]:
    return [Isolation]
