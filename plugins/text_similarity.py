"""Text similarity: how much a token is like the prompt's text (SpeechPrune)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastadasp import Scorer
from fastadasp.ops import unit_vectors

if TYPE_CHECKING:
    from torch import Tensor

    from fastadasp import LayerView, Workload


class TextSimilarity(Scorer):
    """t_j = mean over the text tokens i of the clip's own sample of cosine(h_j, h_i), with h the hidden states.

    Source: Lin et al., SpeechPrune, ICME 2025, first phase (mean over the query's tokens). What differs: the paper
    leaves system prompt and special tokens out of the text; here every token that is not audio counts. Its second phase
    (attention of the first layer from the signs of weights and embeddings) needs the model's weights and is left out.
    """

    name = "text-similarity"
    summary = "mean cosine to the prompt's text tokens"
    formula = "t_j = mean over text tokens i of cosine(h_i, h_j)"
    source = "SpeechPrune (Lin et al., ICME 2025), first phase"
    cost = "T D, since the mean of the text's unit vectors is taken first"
    gives = ("importance",)
    needs = frozenset({"text"})

    def multiply_adds(self, work: Workload) -> int:
        return work.cosines(work.prompt, work.hidden, work.prompt)

    def importance(self, layer: LayerView) -> Tensor:
        """Mean cosines in [-1, 1], float32 [clips, N]."""
        states, valid = layer.text(f"scorer {self.name!r}")
        text = (unit_vectors(states) * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True)
        return (unit_vectors(layer.hidden) * text.unsqueeze(1)).sum(-1)
