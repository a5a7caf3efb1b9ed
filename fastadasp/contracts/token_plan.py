"""The token plan: which cluster each audio token joins, and with which weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenPlan:
    """What one layer does with its audio tokens. Pruning, merging and pooling are all token plans.

    Attributes:
        cluster: int64 [clips, N], the cluster that each token joins, counted from 0 inside its clip in the order of the
            clusters' first tokens; -1 for a token that is dropped and for padding.
        weight: float32 [clips, N] >= 0, how much each token counts in its cluster's mean; None for equal weights.
        shares: True takes the weights as they are, so that a cluster is its members' weighted sum instead of their
            mean. At the site ``input`` alone.
        merges: False promises that no cluster has two members, so survivors are copied rather than averaged.

    Example::

        >>> import torch
        >>> plan = fastadasp.TokenPlan(torch.tensor([[0, 0, 1, -1]]))  # two join, one stays, one goes
        >>> int(plan.cluster.max()) + 1
        2
    """

    cluster: Tensor
    weight: Tensor | None = None
    merges: bool = True
    shares: bool = False
