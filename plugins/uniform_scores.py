"""Uniform scores: every token and every pair counts the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class UniformScores(Scorer):
    """1 everywhere. As ``weight`` it makes plain means (the released code's ``merge_ave``).

    As ``select`` it breaks its ties from the left, which chooses the clip's beginning; take ``random`` for a fair
    choice.
    """

    name = "uniform"
    summary = "1 for every token and pair"
    formula = "w_j = 1"
    source = "released code (`merge_ave`), as weight"
    gives = ("importance", "affinity")

    def multiply_adds(self, work: Workload) -> int:
        return 0

    def importance(self, layer: LayerView) -> Tensor:
        """Ones, float32 [clips, N]."""
        return layer.valid.float()

    def affinity(self, layer: LayerView) -> Tensor:
        """Ones, float32 [clips, N - 1]."""
        return layer.valid[:, 1:].float()
