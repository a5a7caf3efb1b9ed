"""Transfer entropy: starts where the answer keeps most of what the full model's answer knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from fastadasp import CalibratedSelector, LayerChoice, StrategyError, estimators

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastadasp import Calibration

MOST = 1024
"""Points that an estimate is made from; of more, evenly spaced ones are taken."""

FLOOR = 0.01
"""Standard deviation of the noise, in those of the projected features, below which entropies see no difference: what a
reduction leaves exactly as it was would otherwise have an entropy of minus infinity."""


class TransferEntropy(CalibratedSelector):
    """The layer from which a reduction loses the least information, by an estimate of entropies.

    With F the features of the full model at the decoder's end and F_L those of the model reduced from layer L on, both
    at the same tokens and projected onto the principal axes of F, each of unit variance, `form` is what is estimated:

    - ``mutual``: the loss is H(F | F_L) = H(F) - I(F; F_L). H(F) is the same for all layers, so the loss reported is
      -I(F; F_L), in nats.
    - ``residual``: the loss is H(F - F_L), which bounds H(F | F_L) from above.
    - ``difference``: the loss is abs(H(F) - H(F_L)), the paper's form at equal numbers of points: a merged token counts
      as often as it has members.
    - ``resampled``: the same for the audio tokens that are left and as many of the full model's, drawn at random.

    `features` are those of the audio tokens (as in the paper), of the prompt's text after them, of the places that the
    answer is read from, or (``probabilities``) the square roots of the next token's probabilities there, whose
    distances are Hellinger's.

    Source: Lu et al., FastAdaSP, EMNLP 2024, which compares entropies of the audio features at equal ratios; the
    estimators are those of Kozachenko and Leonenko (1987), Kraskov, Stoegbauer and Grassberger (2004) and, for
    ``gaussian``, of closed form. Candidates here are compared at equal FLOPs.
    """

    name = "transfer-entropy"
    summary = "the layer that loses the least information about the full model's answer"

    form: Literal["mutual", "residual", "difference", "resampled"] = Field(
        default="mutual", description='also "residual", "difference", "resampled"'
    )
    features: Literal["answer", "probabilities", "prompt", "audio"] = Field(
        default="answer", description='also "probabilities", "prompt", "audio"'
    )
    estimator: Literal["knn", "gaussian"] = Field(default="knn", description='also "gaussian"')
    k: int = Field(default=4, ge=1, description="the neighbour")
    dims: int = Field(default=16, ge=1, description="principal axes")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.form == "resampled" and self.features != "audio":
            raise ValueError('form = "resampled" is about audio tokens that are left; set features = "audio"')
        return self

    def choose(self, calibration: Calibration) -> LayerChoice:
        """The layer with the least loss. `noise` is half of how much the losses of two halves of the points differ."""
        import numpy as np

        full = self._points(calibration, None)
        dims = min(self.dims, full.shape[1], len(full) - 1)
        if len(full) <= max(self.k, 2):
            raise StrategyError(
                f"layer selector {self.name!r} has {len(full)} points, too few for k = {self.k}: "
                "give more calibration clips"
            )
        if self.form == "mutual" and self.estimator == "gaussian":
            dims = min(dims, (len(full) - 1) // 2)  # the joint covariance has twice as many
        axes, variance_kept = _project(full, full, dims)
        scale = axes.std(0)
        scale = scale.clip(min=1e-6 * scale.max())
        losses, gaps = {}, []
        for layer in calibration.candidates:
            if self.form == "resampled":
                losses[layer] = self._resampled(calibration, layer, full, dims, scale)
                continue
            left, _ = _project(self._points(calibration, layer), full, dims)
            losses[layer] = self._loss(axes / scale, left / scale)
            if len(full) // 2 > (self.k + 1 if self.estimator == "knn" else 2 * dims + 1):
                parts = (self._loss(axes[start::2] / scale, left[start::2] / scale) for start in (0, 1))
                gaps.append(float(np.subtract(*parts)))
        return LayerChoice.least(
            losses,
            points=len(full),
            dims=dims,
            k=self.k if self.estimator == "knn" else None,
            variance_kept=round(variance_kept, 6),
            unit="nats",
            noise=round(float(np.std(gaps)) / 2, 6) if len(gaps) > 1 else None,
        )

    def _points(self, calibration: Calibration, layer: int | None) -> NDArray[np.float64]:
        """The chosen features, [points, D]; the same tokens for every layer."""
        import numpy as np

        points = np.asarray(getattr(calibration.features(layer), self.features).double())
        return points[:: -(-len(points) // MOST)]

    def _loss(self, full: NDArray[np.float64], left: NDArray[np.float64]) -> float:
        """The estimated loss between matching points [points, dims] of unit variance, in nats."""
        import numpy as np

        if self.form == "mutual" and self.estimator == "knn":
            return -float(estimators.knn_mutual_information(full, left, self.k))
        rng = np.random.default_rng(0)
        full, left = (part + FLOOR * rng.standard_normal(part.shape) for part in (full, left))
        if self.form == "mutual":
            parts = (full, left, np.hstack([full, left]))
            own, other, both = (float(estimators.gaussian_entropy(part, covariance="full")) for part in parts)
            return both - own - other
        if self.form == "residual":
            return self._entropy(full - left)
        return abs(self._entropy(full) - self._entropy(left))

    def _resampled(
        self, calibration: Calibration, layer: int, full: NDArray[np.float64], dims: int, scale: NDArray[np.float64]
    ) -> float:
        """Entropies of the tokens that are left and of as many of the full model's."""
        import numpy as np

        survivors = np.asarray(calibration.features(layer).survivors.double())
        survivors = survivors[:: -(-len(survivors) // MOST)]
        rng = np.random.default_rng(calibration.strategy.seed)
        drawn = full[np.sort(rng.permutation(len(full))[: len(survivors)])]
        few, left = (_project(part, full, dims)[0] / scale for part in (drawn, survivors))
        return abs(self._entropy(few) - self._entropy(left))

    def _entropy(self, points: NDArray[np.float64]) -> float:
        if self.estimator == "gaussian":
            return float(estimators.gaussian_entropy(points))
        return float(estimators.knn_entropy(points, self.k))


def _project(
    points: NDArray[np.float64], reference: NDArray[np.float64], dims: int
) -> tuple[NDArray[np.float64], float]:
    """Points on the principal axes of `reference`, [points, dims], and the share of their variance that this keeps."""
    import numpy as np

    from fastadasp import estimators

    made = estimators.project(points, dims, reference)
    return np.asarray(made.points), float(made.variance_kept)
