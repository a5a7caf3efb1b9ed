"""WavLLM of transformers' Whisper encoder, WavLM and LLaMA. Source: microsoft/SpeechT5, WavLLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import remove_parametrizations
from transformers import AutoConfig, AutoProcessor, GenerationMixin, LlamaModel, PreTrainedModel, WavLMModel

from fastadasp.errors import ModelError
from fastadasp.models.wavllm.configuration import WavLLMConfig
from fastadasp.models.wavllm.encoders import AudioAdapter, wavlm_states, whisper_states, within
from fastadasp.models.wavllm.lora import PromptLoRALinear, PromptScale, ScaleInForce
from fastadasp.models.wavllm.processor import WavLLMProcessor
from fastadasp.upstream import names
from fastadasp.upstream.inside import CausalLMOutputWithPast, WhisperEncoder, create_causal_mask

SOUND = ("input_features", "feature_attention_mask", "speech_values", "speech_attention_mask")
"""Inputs that only the prompt has."""


@dataclass
class WavLLMOutput(CausalLMOutputWithPast):
    """Besides the usual: `lora_scale` [B, D], which later steps of the same prompt need."""

    lora_scale: Tensor | None = None


class WavLLMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Two encoders, their adapters, and a LLaMA with LoRA that the prompt scales."""

    config_class = WavLLMConfig
    main_input_name = "input_ids"
    _no_split_modules = ["LlamaDecoderLayer", "WhisperEncoderLayer", "WavLMEncoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = [names.CACHE]  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: WavLLMConfig) -> None:
        super().__init__(config)
        text = config.text_config
        sizes = (config.adapter_size, config.adapter_bottleneck, config.adapter_output)
        self.audio_tower = WhisperEncoder(config.whisper_config)
        self.audio_adapter = AudioAdapter(config.whisper_config.d_model, config.audio_inner, *sizes)
        self.speech_tower = WavLMModel(config.wavlm_config)
        remove_parametrizations(self.speech_tower.encoder.pos_conv_embed.conv, "weight")
        self.speech_adapter = AudioAdapter(config.wavlm_config.hidden_size, config.speech_inner, *sizes)
        self.layer_weights = nn.Parameter(torch.ones(config.wavlm_config.num_hidden_layers + 1))
        self.audio_projection = nn.Linear(2 * config.adapter_output, text.hidden_size)
        self.language_model = LlamaModel(text)
        self.lm_head = nn.Linear(text.hidden_size, config.output_words, bias=False)
        self.scale = PromptScale(text.hidden_size, config.scale_inner)
        self._in_force = ScaleInForce(text.head_dim)
        for layer in self.language_model.layers:
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                old = getattr(layer.self_attn, name)
                sizes = (old.in_features, old.out_features, config.lora_rank)
                new = PromptLoRALinear(*sizes, self._in_force, name in ("q_proj", "k_proj"))
                setattr(layer.self_attn, name, new)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> Any:
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: Any) -> None:
        self.language_model.embed_tokens = value

    def get_output_embeddings(self) -> Any:
        return self.lm_head

    def audio_features(
        self,
        input_features: Tensor,
        feature_attention_mask: Tensor,
        speech_values: Tensor,
        speech_attention_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The clips' audio tokens [clips, N, D] and how many of them are each clip's, int [clips].

        Args:
            input_features: Whisper's log-mel windows [clips, mels, frames].
            feature_attention_mask: [clips, frames], 1 for frames of the clip.
            speech_values: samples [clips, samples] at 16 kHz.
            speech_attention_mask: [clips, samples], 1 for samples of the clip.
        """
        states = whisper_states(self.audio_tower, input_features, feature_attention_mask)
        heard, heard_length = self.audio_adapter(*states)
        states = wavlm_states(self.speech_tower, self.layer_weights, speech_values, speech_attention_mask)
        said, said_length = self.speech_adapter(*states)
        length = min(heard.shape[1], said.shape[1])
        joined = torch.cat([heard[:, :length], said[:, :length]], -1)
        return self.audio_projection(joined), torch.minimum(heard_length, said_length)

    def prompt_scale(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
        """The scale of the LoRA [B, D] for instructions [B, T] padded on the right; `prompt_mask` has 1 for tokens.

        Layers are called one by one: the network wants what leaves the last layer, before the final norm.
        """
        decoder = self.language_model
        states = decoder.embed_tokens(prompt_ids)
        positions = torch.arange(prompt_ids.shape[1], device=prompt_ids.device).unsqueeze(0)
        mask = create_causal_mask(decoder.config, states, None, None)  # padding comes last, so nothing looks at it
        rotary = decoder.rotary_emb(states, position_ids=positions)
        for layer in decoder.layers:
            states = layer(states, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
        scale: Tensor = self.scale(states, prompt_mask)
        return scale

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        input_features: Tensor | None = None,
        feature_attention_mask: Tensor | None = None,
        speech_values: Tensor | None = None,
        speech_attention_mask: Tensor | None = None,
        prompt_ids: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        lora_scale: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> WavLLMOutput:
        """Logits of the next tokens.

        Args:
            prompt_ids, prompt_mask: the instruction, as the processor gives it; not needed with `lora_scale`.
            lora_scale: [B, D], from an earlier output for the same prompts or from `prompt_scale`.

        Raises:
            ModelError: neither is given, or audio tokens and placeholders differ in number.
        """
        cache = names.cache_in(kwargs) if cache is None else cache  # older releases use another name
        if lora_scale is None:
            if prompt_ids is None or prompt_mask is None:
                raise ModelError(
                    "WavLLM scales its LoRA by the instruction: pass prompt_ids and prompt_mask (its processor makes "
                    "them), or lora_scale from an earlier output"
                )
            lora_scale = self.prompt_scale(prompt_ids, prompt_mask)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            if input_features is not None:
                sound = (input_features, feature_attention_mask, speech_values, speech_attention_mask)
                inputs_embeds = self._put_audio(input_ids, inputs_embeds, *sound)
        with self._in_force.use(lora_scale.to(inputs_embeds.dtype)):
            out = self.language_model(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=use_cache,
                **names.cache_argument(cache),
                **names.without_cache(kwargs),
            )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, kept])
        lacking = self.config.text_config.vocab_size - logits.shape[-1]  # such as the placeholder, which is never said
        logits = functional.pad(logits, (0, lacking), value=torch.finfo(logits.dtype).min)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        fields: dict[str, Any] = {
            "loss": loss,
            "logits": logits,
            "hidden_states": out.hidden_states,
            "attentions": out.attentions,
            "lora_scale": lora_scale,
        }
        return WavLLMOutput(**fields, **names.cache_argument(names.cache_of(out)))

    def _put_audio(self, ids: Any, embeds: Tensor, *sound: Any) -> Tensor:
        """Embeddings with the clips' audio tokens in the place of their placeholders."""
        features, lengths = self.audio_features(*sound)
        tokens = features[within(lengths, features.shape[1])]
        places = ids == self.config.audio_token_id
        if len(tokens) != int(places.sum()):
            raise ModelError(
                f"the clips have {len(tokens)} audio tokens, but the prompts {int(places.sum())} placeholders: "
                "let the processor expand the prompt"
            )
        return embeds.masked_scatter(places.unsqueeze(-1), tokens.to(embeds.dtype))

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Any, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        generation: Any = super()  # which looks for inputs_embeds in this signature
        inputs: dict[str, Any] = generation.prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, **kwargs
        )
        if not kwargs.get("is_first_iteration") and kwargs.get("use_cache", True):
            for name in SOUND:
                inputs.pop(name, None)
        return inputs

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        updated: dict[str, Any] = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        return updated | {"lora_scale": outputs.lora_scale}


AutoConfig.register("wavllm", WavLLMConfig)
AutoProcessor.register(WavLLMConfig, WavLLMProcessor)
