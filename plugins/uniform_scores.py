"""Uniform scores: every token and every pair counts the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastadasp import Scorer, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView
    from fastadasp.contracts.components import Need, ScoreKind


class UniformScores(Scorer):
    """1 everywhere. As ``weight`` it makes plain means (the released code's ``merge_ave``).

    As ``select`` it breaks its ties from the left, which chooses the clip's beginning; take ``random`` for a fair
    choice.
    """

    name: ClassVar[str] = "uniform"
    summary: ClassVar[str] = "1 for every token and pair"
    gives: ClassVar[tuple[ScoreKind, ...]] = ("importance", "affinity")
    needs: ClassVar[frozenset[Need]] = frozenset()

    def importance(self, layer: LayerView) -> Tensor:
        """Ones, float32 [clips, N]."""
        return layer.valid.float()

    def affinity(self, layer: LayerView) -> Tensor:
        """Ones, float32 [clips, N - 1]."""
        return layer.valid[:, 1:].float()


@hookimpl
def fastadasp_scorers() -> list[type[Scorer]]:
    return [UniformScores]
