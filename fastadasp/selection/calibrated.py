"""The contract of layer selectors that choose by what they see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fastadasp.contracts.components import LayerSelector
from fastadasp.errors import StrategyError

if TYPE_CHECKING:
    from fastadasp.selection.calibration import Calibration
    from fastadasp.selection.choice import LayerChoice


class CalibratedSelector(LayerSelector):
    """A layer selector that has to see the model at work before it can choose.

    Subclasses define `choose`. What was chosen stands in the parameter `layer`, so a recipe that names a layer needs no
    calibration any more. Candidates are compared at the recipe's own budget if that is one of FLOPs, else at `flops`
    (the fraction of the decoder's prefill FLOPs removed).

    Example::

        >>> class Deepest(fastadasp.CalibratedSelector):
        ...     name = "deepest"
        ...     def choose(self, calibration):
        ...         return fastadasp.LayerChoice.least({layer: float(-layer) for layer in calibration.candidates})
    """

    must_define = ("choose",)

    layer: int | None = Field(default=None, ge=0, description="what was chosen, or None for not yet")
    flops: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="the fraction of the prefill FLOPs at which candidates are compared, unless the budget is one",
    )

    @property
    def needs_calibration(self) -> bool:
        """Whether no layer was chosen yet."""
        return self.layer is None

    def start_layer(self, num_layers: int) -> int:
        if self.layer is None:
            raise StrategyError(
                f"layer selector {self.name!r} has not chosen a layer yet: fastadasp select-layer finds one (fastadasp "
                "compare does so by itself), and so does strategy.calibrated(model, examples); or set layers.layer"
            )
        if self.layer >= num_layers:
            raise StrategyError(f"start layer {self.layer} does not exist: the model has layers 0 to {num_layers - 1}")
        return self.layer

    def choose(self, calibration: Calibration) -> LayerChoice:
        """Scores every layer in ``calibration.candidates`` and picks one of them."""
        raise NotImplementedError
