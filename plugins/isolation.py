"""Isolation: how far a token is from the one most like it (where DivPrune starts)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fastadasp import Scorer
from fastadasp.ops import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload
    from fastadasp.contracts.components import Need


class Isolation(Scorer):
    """1 - max over the clip's other tokens i of cosine(x_j, x_i); x are hidden states, or keys.

    With `among` = ``odd`` only every second token is compared with (the first is even), as bipartite matching does, and
    with a `window` only tokens of the same window of so many tokens, inside which odd and even are counted.

    Source: the first pick of Alvar et al., DivPrune, CVPR 2025; with ``odd`` the order in which ToMe (Bolya et al.,
    ICLR 2023) takes its edges. Streamed over blocks of tokens: time grows with the square of the clip's length, memory
    does not. A token with nothing to compare with gets 2.
    """

    name = "isolation"
    summary = "cosine distance to the most alike other token"
    formula = "u_j = 1 - max over i ≠ j of cosine(h_i, h_j)"
    source = 'first pick of DivPrune (Alvar et al., CVPR 2025); with "odd" the order of ToMe\'s edges'
    cost = "N² D for all cosines, in blocks that are not kept"
    gives = ("importance",)

    among: Literal["all", "odd"] = Field(default="all", description='or "odd": compares with every second token')
    of: Literal["hidden", "keys"] = Field(default="hidden", description='hidden states, or "keys"')
    window: int | None = Field(default=None, ge=2, description="compares inside windows of so many tokens")

    def needed(self) -> frozenset[Need]:
        places: tuple[Need, ...] = ("order",) if self.among == "odd" or self.window is not None else ()
        return frozenset({*places, *(("attention",) if self.of == "keys" else ())})

    def multiply_adds(self, work: Workload) -> int:
        return work.cosines(work.tokens**2, work.hidden if self.of == "hidden" else work.key_width)

    def importance(self, layer: LayerView) -> Tensor:
        """Distances in [0, 2], float32 [clips, N]."""
        import torch

        among = layer.valid
        if self.among == "odd":
            place = torch.arange(among.shape[1], device=among.device)
            among = among & ((place % (self.window or len(place) + 1)) % 2 == 1)
        x = layer.hidden if self.of == "hidden" else layer.keys
        return 1 - nearest(x, among, self.window)[1].clamp_min(-1)
