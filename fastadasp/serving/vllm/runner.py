"""Answers of a comparison's cells from vLLM, with the costs that the prompts have there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from fastadasp.counts.shape import DecoderShape
from fastadasp.engine.features import why_not
from fastadasp.errors import RunError, StrategyError
from fastadasp.inference.clips import ReadyClip, prompt_tokens, read_clip
from fastadasp.inference.costs import SampleCost
from fastadasp.inference.load import LoadedModel
from fastadasp.inference.runner import Outcome, clip_times, efficiency
from fastadasp.models.lookup import adapter_for
from fastadasp.recipes.recipe import Recipe
from fastadasp.serving.launch import Checked, architecture_of, checked
from fastadasp.serving.options import BUDGET
from fastadasp.serving.vllm import fault, installed

_OPTIONS = {"enable_prefix_caching": False, "disable_log_stats": False, "limit_mm_per_prompt": {"audio": 1}}


class VllmRunner:
    """Runs cells inside vLLM, in this process. One engine is alive at a time: that of the last strategy.

    Args:
        model: a folder or hub id.
        options: of vLLM's `LLM` class, beside what is set here.

    Raises:
        RunError: vLLM is not there, or of a release that was not tested.
    """

    def __init__(self, model: str, options: dict[str, Any] | None = None) -> None:
        if reason := fault():
            raise RunError(f"--engine vllm: {reason}")
        self.model, self.options = model, options or {}
        self.name = f"vllm {installed()}"
        self._engine: Any = None
        self._key: str | None = None

    def check(self, strategy: Recipe) -> None:
        """Refuses, in a sentence, a recipe that cannot act inside vLLM as it does elsewhere. Raises StrategyError."""
        self.checked(strategy)

    def checked(self, strategy: Recipe) -> Checked:
        """What the engine is told of a recipe. Raises StrategyError."""
        if why := why_not(strategy, architecture_of(self.model)[1]):
            raise StrategyError(f"--engine vllm: {why}")
        # Budgets come with the requests, so that all budgets of a recipe share an engine.
        return checked(self.model, {"strategy": strategy.with_budget(0.5).to_dict()})

    def run(
        self,
        loaded: LoadedModel,
        strategy: Recipe | None,
        clips: Sequence[ReadyClip],
        *,
        max_new_tokens: int,
        batch_size: int,
        progress: Callable[[int], None],
        encoder_flops: float | None = None,
        choices: tuple[str, str] | None = None,
    ) -> Outcome:
        """As `fastadasp.inference.runner.run_cell`; `batch_size` is how many requests run at the same time.

        Raises:
            StrategyError: the recipe cannot be served.
            RunError: the task asks for the probability of choices, which is not read from vLLM.
        """
        if choices is not None:
            raise RunError("--engine vllm gives no probabilities of choices, which this task asks for")
        outs = self._answers(loaded, strategy, clips, max_new_tokens, batch_size)
        texts = loaded.processor.batch_decode([out.outputs[0].token_ids for out in outs], skip_special_tokens=True)
        progress(len(clips))
        shape = DecoderShape.of(adapter_for(loaded.model).decoder(loaded.model).config)
        width = torch.tensor([], dtype=getattr(torch, loaded.dtype)).element_size()
        costs = [_cost(shape, clip, len(out.prompt_token_ids), width) for clip, out in zip(clips, outs, strict=True)]
        steps = [len(out.outputs[0].token_ids) - 1 for out in outs]
        stats = [out.metrics for out in outs]
        prefill = [s.first_token_ts - s.scheduled_ts for s in stats]
        decode = [s.last_token_ts - s.first_token_ts for s in stats]
        spent = efficiency(costs, [median(prefill)], [median(decode)], steps, batch_size, encoder_flops)
        # vLLM encodes inside the prefill, and a request's times are those of all that run beside it.
        times = clip_times(loaded, [replace(clip, encoding=None) for clip in clips], prefill, decode)
        return Outcome([text.strip() for text in texts], costs, spent.model_copy(update=times))

    def _answers(
        self, loaded: LoadedModel, strategy: Recipe | None, clips: Sequence[ReadyClip], new: int, together: int
    ) -> list[Any]:
        engine = self._engine_for(strategy, loaded, together)
        from vllm import SamplingParams

        own = {} if strategy is None else {"mm_processor_kwargs": {BUDGET: str(strategy.budget)}}
        requests = [
            {
                **own,
                "prompt_token_ids": prompt_tokens(loaded, clip.example),
                "multi_modal_data": {"audio": (read_clip(clip.example, loaded), loaded.sampling_rate)},
            }
            for clip in clips
        ]
        found: list[Any] = engine.generate(requests, SamplingParams(temperature=0, max_tokens=new), use_tqdm=False)
        return found

    def _engine_for(self, strategy: Recipe | None, loaded: LoadedModel, together: int) -> Any:
        changes = {} if strategy is None else self.checked(strategy).overrides
        key = repr((changes, loaded.dtype, together))
        if key != self._key:
            self.close()
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            from vllm import LLM

            options = _OPTIONS | {"dtype": loaded.dtype, "max_num_seqs": together}
            # On a CPU an engine would compile for longer than most cells run.
            options |= {"enforce_eager": loaded.device == "cpu"} | self.options
            self._engine, self._key = LLM(model=self.model, hf_overrides=changes, **options), key
        return self._engine

    def close(self) -> None:
        """Ends the engine; the next cell starts another."""
        if self._engine is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        self._engine.llm_engine.engine_core.shutdown()
        self._engine = self._key = None
        cleanup_dist_env_and_memory()


def _cost(shape: DecoderShape, clip: ReadyClip, prompt: int, width: int) -> SampleCost:
    """What a prompt cost whose tokens in vLLM were counted; all layers have the same."""
    full = clip.tokens
    return SampleCost(
        audio_tokens=clip.audio_tokens,
        audio_tokens_left=clip.audio_tokens - (full - prompt),
        kv_bytes=shape.kv_bytes([prompt] * shape.layers, width),
        kv_bytes_full=shape.kv_bytes([full] * shape.layers, width),
        flops=shape.prefill_flops([(prompt, prompt)] * shape.layers),
        flops_full=shape.prefill_flops([(full, full)] * shape.layers),
    )
