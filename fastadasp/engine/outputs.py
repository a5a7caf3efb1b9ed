"""Outputs that a caller asks for by positions of the prompt: the loss of labels, and the logits of chosen positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastadasp.engine.passes import Left
from fastadasp.errors import StrategyError
from fastadasp.upstream.names import IGNORED, causal_loss


@dataclass
class Asked:
    """What a call asks for that speaks of prompt positions.

    Attributes:
        strategy: the strategy's name, for messages.
        labels: int64 [B, T].
        items: the number of labels that the loss is divided by, where the caller gives it.
        keep: the caller's ``logits_to_keep``.
        rows: what the model gets in its place; filled once it is known where the positions went.
    """

    strategy: str
    labels: Tensor | None = None
    items: Any = None
    keep: int | Tensor = 0
    rows: Tensor | None = None

    @classmethod
    def of(cls, given: dict[str, Any], strategy: str) -> Asked:
        """Of the arguments of a call."""
        labels, keep = given.get("labels"), given.get("logits_to_keep")
        if labels is not None and isinstance(keep, Tensor):
            raise StrategyError(f"strategy {strategy!r}: give labels or logits_to_keep as positions, not both")
        if labels is not None and given.get("shift_labels") is not None:
            raise StrategyError(
                f"strategy {strategy!r}: shift_labels name the tokens of the whole prompt, which the strategy "
                "shortens; give labels alone"
            )
        rows = keep.clone() if isinstance(keep, Tensor) else None
        return cls(strategy, labels, given.get("num_items_in_batch"), 0 if keep is None else keep, rows)

    def __bool__(self) -> bool:
        """Whether the model is to be called with other arguments."""
        return self.labels is not None or self.rows is not None

    def call(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments that the model is called with."""
        own = {name: value for name, value in given.items() if name != "labels"}
        return own if self.rows is None else own | {"logits_to_keep": self.rows}

    def reduced(self, left: Left | None, clips: Tensor | None) -> None:
        """Once the decoder has run: labels and positions of the tokens that are left.

        Args:
            left: which tokens these are; None if all are.
            clips: int [B, T], which clip each prompt position belongs to.
        """
        if self.labels is not None:
            self._reduce_labels(left, clips)
        elif left is not None and self.rows is not None:
            self.rows.copy_(self._place(self.rows, left))
        elif left is not None and isinstance(self.keep, int) and self.keep > 1:
            self._place(torch.arange(-min(self.keep, left.length), 0, device=left.columns.device), left)

    def answer(self, model: nn.Module, output: Any) -> Any:
        """The model's output with the loss of the labels; None to leave it as it is."""
        if self.labels is None:
            return None
        logits = output[0] if isinstance(output, tuple) else output.logits
        if logits is None or logits.shape[:2] != self.labels.shape:
            raise StrategyError(
                f"strategy {self.strategy!r}: the loss of labels {list(self.labels.shape)} needs the logits of all "
                "tokens that are left; leave out logits_to_keep"
            )
        loss = causal_loss(model, logits, self.labels.to(logits.device), self.items)
        if isinstance(output, tuple):
            return (loss, *output)
        output.loss = loss
        return output

    def _reduce_labels(self, left: Left | None, clips: Tensor | None) -> None:
        labels: Tensor = self.labels  # type: ignore[assignment]
        if clips is not None and clips.shape == labels.shape:
            labels = labels.masked_fill(clips.to(labels.device) > 0, IGNORED)
        if left is not None:
            labels = labels.gather(1, left.columns.to(labels.device))
            if left.valid is not None:
                labels = labels.masked_fill(~left.valid.to(labels.device), IGNORED)
        self.labels = labels

    def _place(self, positions: Tensor, left: Left) -> Tensor:
        """Where prompt positions [K] are among the tokens that are left."""
        columns = left.columns
        asked = positions.to(columns.device)
        asked = torch.where(asked < 0, asked + left.length, asked)
        match = columns.unsqueeze(1) == asked.view(1, -1, 1)  # [B, K, width]
        if left.valid is not None:
            match = match & left.valid.to(columns.device).unsqueeze(1)
        places = match.to(torch.int64).argmax(-1)
        if not bool(match.any(-1).all()):
            raise StrategyError(
                f"logits_to_keep asks for prompt positions that strategy {self.strategy!r} has removed or merged into "
                "others; ask for positions of text"
            )
        if not bool((places == places[:1]).all()):
            raise StrategyError(
                f"logits_to_keep asks for positions that strategy {self.strategy!r} has moved to other places in each "
                "sample of the batch; ask for one sample at a time"
            )
        return places[0].to(positions)
