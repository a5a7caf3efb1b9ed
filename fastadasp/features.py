"""What a strategy offers to engines that hold a clip's features and have no hooks in the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp.counts.budget import Budget
    from fastadasp.engine.features import Reduced
    from fastadasp.strategy import Strategy


class OnFeatures:
    """The strategy's methods that need no model; the engine's own planning does the work."""

    def why_not_on_features(self: Strategy, layers: int) -> str | None:  # type: ignore[misc]
        """Why it cannot act on features alone, before a decoder of so many layers: one sentence; None if it can."""
        from fastadasp.engine.features import why_not

        return why_not(self, layers)

    def left(self: Strategy, tokens: int, layers: int) -> int:  # type: ignore[misc]
        """How many of a clip's audio tokens stay, known before any feature exists.

        Args:
            tokens: audio tokens of the clip.
            layers: layers of the decoder.

        Raises:
            StrategyError: the recipe cannot act on features alone; says why (`why_not_on_features`).
        """
        from fastadasp.engine.features import left

        return left(self, tokens, layers)

    def reduce(  # type: ignore[misc]
        self: Strategy, clips: Sequence[Tensor], layers: int, budget: Budget | float | str | None = None
    ) -> list[Reduced]:
        """Shortens clips outside of any model, as `apply` does at the site ``input``; a batch is as each alone.

        Args:
            clips: features [N, D] of each clip as they would enter the decoder.
            layers: layers of the decoder.
            budget: the fraction removed, if not the recipe's own.

        Returns:
            For each clip its features [M, D] and the places int64 [M] where the survivors stood.

        Raises:
            StrategyError: the recipe cannot act on features alone; says why (`why_not_on_features`).
        """
        from fastadasp.engine.features import reduce

        return reduce(self if budget is None else self.with_budget(budget), clips, layers)
