"""Random scores: the baseline that any scorer has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastadasp import Scorer, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView
    from fastadasp.contracts.components import Need, ScoreKind


class RandomScores(Scorer):
    """Uniform noise in [0, 1), as importance or as affinity.

    It follows from the strategy's ``seed``, the layer and the clip alone, so that it repeats exactly and a clip is
    treated alike in any batch. ``stream`` gives other draws of the same seed.
    """

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "uniform noise from the strategy's seed, the layer and the clip"
    seeded: ClassVar[bool] = True
    gives: ClassVar[tuple[ScoreKind, ...]] = ("importance", "affinity")
    needs: ClassVar[frozenset[Need]] = frozenset()

    stream: int = 0

    def importance(self, layer: LayerView) -> Tensor:
        """Noise in [0, 1), float32 [clips, N]."""
        return layer.noise(self.stream)

    def affinity(self, layer: LayerView) -> Tensor:
        """Noise in [0, 1), float32 [clips, N - 1]."""
        return layer.noise(self.stream)[:, 1:]


@hookimpl
def fastadasp_scorers() -> list[type[Scorer]]:
    return [RandomScores]
