"""The model ``fastadasp`` of lm-evaluation-harness, for its tasks with audio (``doc_to_audio``).

    python -m fastadasp.harness.lm_eval run --model fastadasp --include_path tasks --tasks mine \\
        --model_args pretrained=Qwen/Qwen2-Audio-7B-Instruct,strategy=weighted,budget=0.5

is ``lm-eval`` with this model known to it. In Python, importing this module makes it known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from fastadasp.errors import DataError, RunError
from fastadasp.harness.answers import Answering, Question, refuse_likelihoods, stops_of

_SIGN = re.compile(r"\s*<audio>\s*")
"""How prompts of the harness mark where audio goes; here the chat template says so."""


@register_model("fastadasp")
class FastAdaSP(LM):
    """A speech LLM under a strategy.

    Args:
        pretrained: model folder or hub id.
        strategy: name or TOML file; None for the full model.
        budget: the fraction removed, 0.5, or flops=0.3 and the like; None for the recipe's own.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        batch_size: clips at a time.
        max_gen_toks: most new tokens where a task does not say.
        seed: of strategies that draw at random.

    Raises:
        FastAdaSPError: one of them is wrong.
    """

    MULTIMODAL = True

    def __init__(
        self,
        pretrained: str,
        strategy: str | None = None,
        budget: str | float | None = None,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_gen_toks: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.answering = Answering.load(
            pretrained, strategy, budget, device=device, dtype=dtype, batch_size=batch_size, seed=seed
        )
        self.max_gen_toks = max_gen_toks

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers of all requests, greedy. Raises FastAdaSPError."""
        return self.answering.answer([self._question(request) for request in requests])

    def _question(self, request: Any) -> Question:
        text, settings, *more = request.args
        sounds = more[0].get("audio") if more else None
        if isinstance(sounds, list) and not _is_samples(sounds):
            if len(sounds) != 1:
                raise DataError(f"a question needs one recording here, not {len(sounds)}")
            sounds = sounds[0]
        if sounds is None:
            raise DataError("the task gives no audio; its configuration needs doc_to_audio")
        length = int(settings.get("max_gen_toks") or settings.get("max_new_tokens") or self.max_gen_toks)
        return Question(_SIGN.sub(" ", text).strip(), sounds, length, stops_of(settings))

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> NoReturn:
        """Refused: the model's template is always applied."""
        raise RunError("the model's own chat template is always applied; leave --apply_chat_template out")

    def loglikelihood(self, requests: Any) -> NoReturn:
        """Refused: only generated answers are supported."""
        refuse_likelihoods()

    def loglikelihood_rolling(self, requests: Any) -> NoReturn:
        """Refused: only generated answers are supported."""
        self.loglikelihood(requests)


def _is_samples(sounds: Sequence[Any]) -> bool:
    """Whether a list is the samples of one recording."""
    return bool(sounds) and isinstance(sounds[0], int | float)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
