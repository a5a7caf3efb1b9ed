"""Checks when a server starts, and the rotary embeddings that let audio tokens have positions of their own."""

from __future__ import annotations

from typing import Any

from fastadasp.errors import StrategyError
from fastadasp.serving.options import FIELD, Serving, serving
from fastadasp.serving.vllm.private import VerifyAndUpdateConfig


def serving_of(model_config: Any) -> Serving:
    """The strategy that a server was told to apply. Raises StrategyError in a sentence."""
    options = getattr(model_config.hf_config, FIELD, None)
    if not isinstance(options, dict):
        raise StrategyError(
            f"this architecture needs the strategy in the field {FIELD!r} of --hf-overrides; see docs/serving.md"
        )
    return serving(options, model_config.hf_text_config.num_hidden_layers)


class ServedConfig(VerifyAndUpdateConfig):
    """What vLLM does with the configuration of our architectures before anything is loaded."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Refuses what cannot be served; gives the decoder positions with three rows where the strategy needs them.

        A decoder with plain rotary embeddings gets an M-RoPE whose first row holds all rotary channels: the same
        angles, for any positions.
        """
        positions = serving_of(model_config).strategy.positions
        if positions == "compact" or model_config.uses_mrope:
            return
        text = model_config.hf_text_config
        rope = getattr(text, "rope_parameters", None)
        kind = rope.get("rope_type", "default") if isinstance(rope, dict) else None
        if rope is None or kind != "default":
            raise StrategyError(
                f'positions "{positions}" need plain rotary embeddings, but this decoder has rope type {kind!r}; '
                "use --positions compact"
            )
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        rotary = int(size * rope.get("partial_rotary_factor", 1.0))
        rope["mrope_section"] = [rotary // 2, 0, 0]

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Refuses ways of running in which survivors' own positions would not reach the decoder."""
        positions = serving_of(vllm_config.model_config).strategy.positions
        if positions != "original":
            return
        if vllm_config.parallel_config.pipeline_parallel_size > 1:
            raise StrategyError('positions "original" cannot be served with pipeline parallelism; use "even"')
        mode = vllm_config.compilation_config.cudagraph_mode
        if mode is not None and mode.mixed_mode().name == "FULL":
            raise StrategyError(
                'positions "original" cannot be served when full CUDA graphs run prompts; use "even", or a '
                "cudagraph_mode of PIECEWISE or FULL_AND_PIECEWISE"
            )
