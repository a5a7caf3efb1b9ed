"""SA-MAP: neighbours that are alike become groups, then a diverse and important choice of groups stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp import Merger, TokenPlan
from fastadasp.ops import clusters_from_joins, greedy_map, group_means, rank_descending, unit_vectors

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class SaMap(Merger):
    """Merging, then pruning to the budget.

    1. Groups. From the clip's first token on, a group takes in the next token while the mean over its members of their
       cosine to that token is at least ``threshold``; else a new group begins. Groups hold at most ``longest`` tokens.
    2. A group becomes its mean, weighted by ``weight`` (attention); its relevance r is the mean of its members'
       importances.
    3. Of the groups, as many stay as the budget asks for: greedy MAP of a determinantal point process with the kernel
       r_g r_h cosine(g, h). Each pick is the group with the largest gain, after which its direction is taken out of all
       others' features.

    Exactly k tokens go. If grouping alone removes more, the clip's threshold rises: the k joins with the largest mean
    cosine remain and the others come apart.

    Source: SA-MAP, 2026 (preprints 202606.0741), and the authors' code. What differs: they take attention from the
    encoder and act before the decoder; their groups have no longest length and they prune without a floor under the
    number of groups; here groups are not grown anew under the risen threshold. Where more groups stay than features
    have dimensions, relevance decides.

    No loop over tokens finds the groups: where a group from each token on would end is found for all at once in
    ``longest`` rounds, and the ends that follow from the first token in log2 N jumps. Picks follow one another by
    definition: as many rounds as the longest clip keeps tokens, N x D memory, never N x N.
    """

    name = "sa-map"
    summary = "merges alike neighbours, then keeps a diverse and important choice"
    formula = (
        "groups: a neighbour joins while its mean cosine to the group ≥ threshold; kept: greedy MAP of det L, "
        "L_gh = r_g r_h cosine(g, h)"
    )
    source = "SA-MAP (2026, preprints 202606.0741)"
    cost = "`longest` rounds for the groups, then m rounds that follow one another, (longest + m) N D"
    reads = "importance"
    needs = frozenset({"order"})

    threshold: float = Field(default=0.85, ge=-1, le=1)
    longest: int = Field(default=32, ge=1, le=256)

    def multiply_adds(self, work: Workload) -> int:
        lags = sum(work.tokens - lag for lag in range(1, min(self.longest, work.tokens)))
        groups = work.tokens + 1
        grown = work.cosines(lags, work.hidden) + work.cosines(groups, work.hidden)
        return grown + 3 * work.kept * groups * work.hidden + work.means()

    def plan(self, layer: LayerView, select: Tensor, weight: Tensor | None, remove: Tensor) -> TokenPlan:
        valid, hidden = layer.valid, layer.hidden
        joined, strength = self._grow(unit_vectors(hidden), valid)
        strongest = rank_descending(strength.masked_fill(~joined, float("-inf"))) < remove.unsqueeze(1)
        group = clusters_from_joins(joined & strongest, valid)

        slot = group.where(valid, valid.shape[1])  # padding has a group of its own, the last
        mean = group_means(hidden.float(), valid.float() if weight is None else weight.float(), slot)
        relevance = group_means(select.masked_fill(~valid, 0.0).float().unsqueeze(-1), valid.float(), slot)
        features = unit_vectors(mean) * (relevance / relevance.amax(1, keepdim=True).clamp_min(1e-30))
        exists = valid.new_zeros(len(slot), slot.shape[1] + 1).scatter_(1, slot, valid)
        kept = valid.sum(1) - remove
        chosen = greedy_map(features, exists, kept, layer.most_kept())
        stays = chosen.gather(1, slot) & valid
        return TokenPlan((chosen.cumsum(1) - 1).gather(1, slot).masked_fill(~stays, -1), weight)

    def _grow(self, unit: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens join the one before, bool [clips, N - 1], and their mean cosine to the group, float32."""
        import torch

        clips, width = valid.shape
        rounds = min(self.longest, width) - 1
        if rounds < 1:
            return valid[:, 1:] & False, unit.new_zeros(clips, max(width - 1, 0))
        steps = torch.arange(width, device=valid.device).expand_as(valid)
        end, grows, sums, columns = steps + 1, valid, unit, []
        for lag in range(1, rounds + 1):  # does the group of the `lag` tokens from here on take in the next one?
            sums = sums[:, : width - lag]
            cosine = torch.nn.functional.pad((sums * unit[:, lag:]).sum(-1) / lag, (0, lag), value=float("-inf"))
            inside = torch.nn.functional.pad(valid[:, lag:], (0, lag))
            grows = grows & inside & (cosine >= self.threshold)
            end = end + grows
            sums = sums + unit[:, lag:]
            columns.append(cosine)

        # The beginnings of groups are the places that jumps from a beginning to its end visit, from the first token on.
        jump = torch.nn.functional.pad(end, (0, 1), value=width)
        begins = torch.zeros(clips, width + 1, dtype=torch.int64, device=valid.device)
        begins[:, 0] = 1
        for _ in range(width.bit_length()):
            begins = (begins + torch.zeros_like(begins).scatter_add(1, jump, begins)).clamp_max(1)
            jump = jump.gather(1, jump)
        begins = begins[:, :width].bool()
        begin = steps.where(begins, 0).cummax(1).values
        place = begin * rounds + (steps - begin - 1).clamp(0, rounds - 1)
        strength = torch.stack(columns, -1).flatten(1).gather(1, place)
        return (~begins & valid)[:, 1:], strength[:, 1:]
