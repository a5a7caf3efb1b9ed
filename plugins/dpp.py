"""DPP: what stays is important and unlike, by a determinantal point process (CDPruner)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_kept, greedy_map, unit_vectors

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class Dpp(Merger):
    """Greedy MAP of a determinantal point process with the kernel r_i r_j cosine(h_i, h_j) keeps n - k tokens.

    Each pick is the token that adds most to the kernel's determinant; of equals the first. r is the importance: with
    ``uniform`` ones only likeness counts, which is CDPruner's audio form.

    Source: Zhang et al., CDPruner, NeurIPS 2025, as the branch SA-MAP of Tencent/AngelSlim has it for audio (no
    condition on the question). Exactly k tokens go.
    """

    name = "dpp"
    summary = "keeps what is important and unlike, by a determinantal point process"
    formula = "greedy MAP of det L_S, |S| = n - k; L_ij = r_i r_j cosine(h_i, h_j)"
    source = "CDPruner (Zhang et al., NeurIPS 2025), in its audio form (Tencent/AngelSlim)"
    cost = "m rounds that follow one another, m N D in all"
    reads = "importance"
    uses_weight = False
    sites = ("input", "block")

    def multiply_adds(self, work: Workload) -> int:
        # in each round lengths, products with the pick, and what is taken out
        return work.cosines(3 * work.kept * work.tokens, work.hidden)

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        valid = layer.valid
        relevance = select.masked_fill(~valid, 0.0).float()
        relevance = relevance / relevance.amax(1, keepdim=True).clamp_min(1e-30)
        features = unit_vectors(layer.hidden) * relevance.unsqueeze(-1)
        kept = valid.sum(1) - remove
        chosen = greedy_map(features, valid, kept, layer.most_kept(), relevance.square())
        return TokenPlan(clusters_from_kept(chosen & valid), merges=False)
