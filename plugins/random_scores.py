"""Random scores: the baseline that any scorer has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class RandomScores(Scorer):
    """Uniform noise in [0, 1), as importance or as affinity.

    It follows from the strategy's ``seed``, the layer and the clip alone, so that it repeats exactly and a clip is
    treated alike in any batch. ``stream`` gives other draws of the same seed.
    """

    name = "random"
    summary = "uniform noise from the strategy's seed, the layer and the clip"
    formula = "s_j ~ uniform [0, 1), from seed, layer and clip"
    source = "baseline"
    seeded = True
    gives = ("importance", "affinity")

    stream: int = Field(default=0, description="other draws of the same seed")

    def multiply_adds(self, work: Workload) -> int:
        return 0

    def importance(self, layer: LayerView) -> Tensor:
        """Noise in [0, 1), float32 [clips, N]."""
        return layer.noise(self.stream)

    def affinity(self, layer: LayerView) -> Tensor:
        """Noise in [0, 1), float32 [clips, N - 1]."""
        return layer.noise(self.stream)[:, 1:]
