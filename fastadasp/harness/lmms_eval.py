"""The model ``fastadasp`` of lmms-eval, which finds it by this package's entry point.

    lmms-eval --model fastadasp --model_args pretrained=Qwen/Qwen2-Audio-7B-Instruct,strategy=weighted,budget=0.5 \\
        --tasks librispeech_test_clean,mmau_test_mini
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from fastadasp.errors import DataError, RunError
from fastadasp.harness.answers import Answering, Question, refuse_likelihoods, stops_of


class FastAdaSP(lmms):
    """A speech LLM under a strategy; the arguments are those of `Answering.load`."""

    def __init__(
        self,
        pretrained: str,
        strategy: str | None = None,
        budget: str | float | None = None,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_new_tokens: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.answering = Answering.load(
            pretrained, strategy, budget, device=device, dtype=dtype, batch_size=batch_size, seed=seed
        )
        self.max_new_tokens = max_new_tokens

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers of all requests, greedy. Raises FastAdaSPError."""
        return self.answering.answer([self._question(request) for request in requests])

    def _question(self, request: Any) -> Question:
        text, settings, recordings, place, task, split = request.args
        found = recordings(self.task_dict[task][split][place])
        if not isinstance(found, list) or len(found) != 1:
            count = len(found) if isinstance(found, list) else 0
            raise DataError(f"{task}, {split} {place}: a question needs one recording here, not {count}")
        return Question(text, found[0], int(settings.get("max_new_tokens") or self.max_new_tokens), stops_of(settings))

    def loglikelihood(self, requests: Any) -> NoReturn:
        """Refused: only generated answers are supported."""
        refuse_likelihoods()

    def generate_until_multi_round(self, requests: Any) -> NoReturn:
        """Refused: a question is answered at once."""
        raise RunError("the model fastadasp answers a question at once; tasks of several rounds cannot be used")


MANIFEST = ModelManifest(model_id="fastadasp", simple_class_path=f"{__name__}.FastAdaSP")
"""What lmms-eval reads."""
