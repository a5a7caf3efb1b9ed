"""Window similarity: how alike a token is to the few before it (Affinity Pooling)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fastadasp import Scorer
from fastadasp.ops import unit_vectors

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload
    from fastadasp.contracts.components import Need


class WindowSimilarity(Scorer):
    """s_i = mean over v = 0...window - 1 of cosine(x_{i+1}, x_{i-v}); x are hidden states, or keys. At a clip's
    beginning the mean is over the tokens there are. After the decoder's first layer `deep_window` is taken, if given.

    Source: Xiang et al., "Do We Need Distinct Representations for Every Speech Token?" (Affinity Pooling), Findings of
    ACL 2026: window 1 at the input and 3 at a deep layer (29 of Qwen2-Audio's 32). What differs: the paper joins a
    token while its similarity exceeds a threshold (0.7 to 0.9) and looks back inside the open group alone, so that its
    count depends on the clip; here the most alike pairs join until the budget is met (merger ``runs``), and the window
    reaches into the group before.
    """

    name = "window-similarity"
    summary = "cosine of a token to the few before it, hidden states or keys"
    formula = "s_i = mean over v = 0…window-1 of cosine(h_{i-v}, h_{i+1})"
    source = "Affinity Pooling (Xiang et al., Findings of ACL 2026)"
    cost = "w N D for the cosines"
    gives = ("affinity",)
    absolute = True
    needs = frozenset({"order"})

    window: int = Field(default=1, ge=1, le=64, description="tokens that a token is compared with")
    deep_window: int | None = Field(default=None, ge=1, le=64, description="the same after the first layer")
    of: Literal["hidden", "keys"] = Field(default="hidden", description='hidden states, or "keys"')

    def needed(self) -> frozenset[Need]:
        return self.needs if self.of == "hidden" else self.needs | {"attention"}

    def multiply_adds(self, work: Workload) -> int:
        window = self.window if self.deep_window is None or work.layer == 0 else self.deep_window
        pairs = sum(work.tokens - back for back in range(1, min(window, work.tokens - 1) + 1))
        return work.cosines(pairs, work.hidden if self.of == "hidden" else work.key_width)

    def affinity(self, layer: LayerView) -> Tensor:
        """Cosines in [-1, 1], float32 [clips, N - 1]."""
        import torch

        unit = unit_vectors(layer.hidden if self.of == "hidden" else layer.keys)
        pairs = max(unit.shape[1] - 1, 0)
        window = self.window if self.deep_window is None or layer.layer_index == 0 else self.deep_window
        total = unit.new_zeros(len(unit), pairs)
        for back in range(1, min(window, pairs) + 1):
            cosine = (unit[:, back:] * unit[:, :-back]).sum(-1)
            total = total + torch.nn.functional.pad(cosine, (back - 1, 0))
        return total / torch.arange(1, pairs + 1, device=unit.device).clamp_max(window)
