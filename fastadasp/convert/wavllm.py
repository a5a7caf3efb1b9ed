"""WavLLM's fairseq checkpoint as `fastadasp.models.wavllm`. Source of names: microsoft/SpeechT5, folder WavLLM.

The checkpoint holds everything, LLaMA-2 included, but no configuration of the parts: their sizes are read off the
tensors, with 64 channels a head in Whisper and 128 in LLaMA, as in every released one. A checkpoint without LLaMA's own
weights takes them from a folder in transformers' form.

- Queries and keys change from rotary pairs of neighbours to halves of a head: rows of W, columns of the LoRA's B.
- WavLM's normed convolution becomes a plain one.
- The embedding gets a row of zeros for the audio placeholder, which the original's tokenizer does not have.
- ``audio_proj`` (for models without WavLM) and WavLM's ``masked_spec_embed`` (for training) are left out.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadasp.convert.plan import Conversion, Target
from fastadasp.convert.source import Source, counted, load_pickled, open_folder, read_json
from fastadasp.errors import ModelError

WHISPER_HEAD, LLAMA_HEAD = 64, 128
BEYOND = 2048
"""Positions that the original computes rotary embeddings for."""
IGNORED = (r"audio_proj\.(weight|bias)", r"wavlm_encoder\.model\.masked_spec_embed", r"llama\..*inv_freq")
LLAMA = "gpt_model.model_llama"
OWN_LLAMA = f"{LLAMA}.layers.0.attention.wq.weight"

_AROUND = {
    "audio_tower.": "audio_encoder.model.",
    "audio_adapter.subsample.": "audio_encoder.subsample.conv_layers.",
    "audio_adapter.projector.": "audio_encoder.projector.",
    "audio_adapter.": "audio_encoder.adapter.",
    "speech_tower.": "wavlm_encoder.model.",
    "speech_adapter.subsample.": "wavlm_encoder.subsample.conv_layers.",
    "speech_adapter.projector.": "wavlm_encoder.projector.",
    "speech_adapter.": "wavlm_encoder.adapter.",
    "layer_weights": "wavlm_encoder.output_weights",
    "audio_projection.": "wavlm_audio_proj.",
    "scale.attention.": f"{LLAMA}.scale_weight_attention.",
    "scale.": f"{LLAMA}.scale_",
    "lm_head.": f"{LLAMA}.output.",
    "language_model.norm.": f"{LLAMA}.norm.",
    "language_model.embed_tokens.": f"{LLAMA}.tok_embeddings.",
}
"""Beginnings of names: ours, theirs; the first that fits."""
TABLE = "language_model.embed_tokens.weight"
NORMED = "speech_tower.encoder.pos_conv_embed.conv.weight"
_LAYER = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def prepare(path: Path, llama: Path | None = None) -> Conversion:
    """The conversion of a checkpoint file, or of a folder with one.

    Args:
        llama: a folder of LLaMA-2-7B in transformers' form; its tokenizer is used, and its weights where the
            checkpoint has none. None: the tokenizer lies beside the checkpoint.

    Raises:
        ModelError: files are missing, or are not WavLLM's.
    """
    file = _checkpoint(path)
    tokenizer = _tokenizer(llama or file.parent)
    source = _open(file, llama)
    config = _configuration(source, len(tokenizer))
    shapes = _shapes(config)
    given = OWN_LLAMA not in source.shapes
    norms = _weight_norm(source)
    targets = [_target(name, config, given, norms) for name in shapes]
    kernel = shapes[NORMED]
    expected = {target.parts[0]: shapes[target.name] for target in targets}
    expected |= {norms[0]: (1, 1, kernel[2]), norms[1]: kernel}
    expected[_origin(TABLE, given)] = (config.output_words, config.text_config.hidden_size)

    def finish(folder: Path) -> None:
        _processor(tokenizer, config).save_pretrained(folder)
        _generation(tokenizer).save_pretrained(folder)
        config.save_pretrained(folder)

    return Conversion("wavllm", source, expected, targets, shapes, finish, IGNORED)


def _checkpoint(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.pt"))
    if len(files) != 1:
        raise ModelError(f"{path} holds {len(files)} .pt files; expected one, WavLLM's final.pt")
    return files[0]


def _open(file: Path, llama: Path | None) -> Source:
    """The tensors of a fairseq checkpoint; where it lacks LLaMA's, those of a folder, ``llama.`` before their names."""
    content = load_pickled(file)
    model = content.get("model")
    if not isinstance(model, dict):
        raise ModelError(
            f"{file} is not a fairseq checkpoint: it has no 'model' (it has {', '.join(map(str, content))})"
        )
    source = Source(file).add_tensors(file, {n.replace("_checkpoint_wrapped_module.", ""): t for n, t in model.items()})
    if not any(name.startswith("wavlm_encoder.") for name in source.shapes):
        raise ModelError(f"{file} is not WavLLM's: none of its tensors is under wavlm_encoder")
    if llama is not None and OWN_LLAMA not in source.shapes:
        kind = read_json(llama / "config.json").get("model_type")
        if kind != "llama":
            raise ModelError(f"{llama} is a model of type {kind!r}; expected LLaMA-2-7B")
        open_folder(llama, source, "llama.")
    return source


def _tokenizer(folder: Path) -> Any:
    """LLaMA's tokenizer with the audio placeholder, from a folder with tokenizer.json."""
    from transformers import AutoTokenizer

    from fastadasp.models.wavllm.processor import AUDIO

    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json; give --llama, a folder of LLaMA-2-7B in transformers' form "
            "(WavLLM was published without a tokenizer)"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises plain Exceptions for files that it cannot use
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"the tokenizer in {folder} cannot be read: {first}") from None
    if tokenizer.bos_token is None or tokenizer.eos_token is None:
        raise ModelError(f"the tokenizer in {folder} has no start or end token; expected LLaMA's")
    tokenizer.add_special_tokens({"additional_special_tokens": [AUDIO]})
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _configuration(source: Source, words: int) -> Any:
    """The sizes, read off the tensors; `words` are the tokenizer's, the placeholder included."""
    from transformers import LlamaConfig, WavLMConfig, WhisperConfig

    from fastadasp.models.wavllm.configuration import WavLLMConfig

    def size(name: str, dimension: int = 0) -> int:
        shape = source.shapes.get(name, ())
        if dimension >= len(shape):
            raise ModelError(
                f"{source.origin} is not a complete WavLLM checkpoint: it lacks {name}, or it is of no use"
            )
        return shape[dimension]

    def count(pattern: str) -> int:
        return counted(source.shapes, pattern)

    def heads(width: int, each: int, of: str) -> int:
        if width % each:
            raise ModelError(f"{source.origin}: {of} has {width} channels, which is no multiple of {each}")
        return width // each

    whisper, speech = "audio_encoder.model", "wavlm_encoder.model"
    d, s = size(f"{whisper}.conv1.weight"), size(f"{speech}.feature_projection.projection.weight")
    convolutions = range(count(rf"{re.escape(speech)}\.feature_extractor\.conv_layers\.(\d+)\."))
    layer = f"{speech}.encoder.layers.0"
    position = _weight_norm(source)[1]
    words_stored, hidden = _table_shape(source)
    inner = f"{LLAMA}.layers.0.feed_forward.w1.weight"
    inner = inner if inner in source.shapes else "llama.model.layers.0.mlp.gate_proj.weight"
    placeholder = words - 1
    if placeholder < words_stored:
        raise ModelError(f"the tokenizer knows {placeholder} tokens, but the checkpoint has {words_stored}")
    llama_heads = heads(hidden, LLAMA_HEAD, "LLaMA")
    extractor = [f"{speech}.feature_extractor.conv_layers.{i}.conv.weight" for i in convolutions]
    return WavLLMConfig(
        whisper_config=WhisperConfig(
            d_model=d,
            num_mel_bins=size(f"{whisper}.conv1.weight", 1),
            max_source_positions=size(f"{whisper}.embed_positions.weight"),
            encoder_layers=count(rf"{re.escape(whisper)}\.layers\.(\d+)\."),
            encoder_attention_heads=heads(d, WHISPER_HEAD, "Whisper"),
            encoder_ffn_dim=size(f"{whisper}.layers.0.fc1.weight"),
        ),
        wavlm_config=WavLMConfig(
            hidden_size=s,
            num_hidden_layers=count(rf"{re.escape(speech)}\.encoder\.layers\.(\d+)\."),
            num_attention_heads=size(f"{layer}.attention.rel_attn_embed.weight", 1),
            num_buckets=size(f"{layer}.attention.rel_attn_embed.weight"),
            intermediate_size=size(f"{layer}.feed_forward.intermediate_dense.weight"),
            conv_dim=[size(name) for name in extractor],
            conv_kernel=[size(name, 2) for name in extractor],
            num_conv_pos_embeddings=size(position, 2),
            num_conv_pos_embedding_groups=s // size(position, 1),
            mask_time_prob=0.0,
        ),
        text_config=LlamaConfig(
            vocab_size=placeholder + 1,
            hidden_size=hidden,
            intermediate_size=size(inner),
            num_hidden_layers=count(rf"{re.escape(LLAMA)}\.layers\.(\d+)\."),
            num_attention_heads=llama_heads,
            num_key_value_heads=llama_heads,
            max_position_embeddings=BEYOND,
            rms_norm_eps=1e-6,  # the original's, for LLaMA-2 too
            tie_word_embeddings=False,
        ),
        audio_token_id=placeholder,
        output_words=words_stored,
        audio_inner=size("audio_encoder.subsample.conv_layers.0.weight"),
        speech_inner=size("wavlm_encoder.subsample.conv_layers.0.weight"),
        adapter_size=size("audio_encoder.adapter.up_layer.weight"),
        adapter_bottleneck=size("audio_encoder.adapter.down_layer.weight"),
        adapter_output=size("audio_encoder.projector.weight"),
        lora_rank=size(f"{LLAMA}.layers.0.attention.wq_lora_A", 1),
        scale_inner=size(f"{LLAMA}.scale_fc_1.weight"),
        architectures=["WavLLMForConditionalGeneration"],
        tie_word_embeddings=False,
        dtype=source.dtypes.get(f"{LLAMA}.layers.0.attention.wq_lora_A"),
    )


def _table_shape(source: Source) -> tuple[int, int]:
    for name in (f"{LLAMA}.tok_embeddings.weight", "llama.model.embed_tokens.weight"):
        if len(source.shapes.get(name, ())) == 2:
            words, hidden = source.shapes[name]
            return words, hidden
    raise ModelError(f"{source.origin} holds no weights of LLaMA; give --llama, a folder of LLaMA-2-7B")


def _weight_norm(source: Source) -> tuple[str, str]:
    """The two parts of WavLM's normed convolution, norm and direction: their names changed in torch 2.0."""
    conv = "wavlm_encoder.model.encoder.pos_conv_embed.conv"
    if f"{conv}.weight_v" in source.shapes:
        return f"{conv}.weight_g", f"{conv}.weight_v"
    return f"{conv}.parametrizations.weight.original0", f"{conv}.parametrizations.weight.original1"


def _origin(name: str, given: bool) -> str:
    """The checkpoint's name of one of our tensors; of the LLaMA folder's, for its weights, if they are `given`."""
    layer = re.fullmatch(r"language_model\.layers\.(\d+)\.(.*)\.(weight|lora_[AB])", name)
    if layer and layer[3] != "weight":
        return f"{LLAMA}.layers.{layer[1]}.{_LAYER[layer[2]]}_{layer[3]}"
    if given and name.startswith("language_model."):
        return f"llama.model.{name.removeprefix('language_model.')}"
    if given and name.startswith("lm_head."):
        return f"llama.{name}"
    if layer:
        return f"{LLAMA}.layers.{layer[1]}.{_LAYER[layer[2]]}.weight"
    ours = next(ours for ours in _AROUND if name.startswith(ours))
    return _AROUND[ours] + name.removeprefix(ours)


def _target(name: str, config: Any, given: bool, norms: tuple[str, str]) -> Target:
    """One of our tensors, and how it comes about."""
    origin, rotary = _origin(name, given), re.match(r"language_model\..*\.[qk]_proj\.", name)
    if name == NORMED:
        return Target(name, norms, _scale_kernel)
    if name == TABLE:
        more = config.text_config.vocab_size - config.output_words
        return Target(name, (origin,), partial(_add_rows, more))
    if rotary and name.endswith("lora_B"):
        return Target(name, (origin,), partial(_rotate_columns, config.text_config.head_dim))
    if rotary and name.endswith("weight") and not given:
        return Target(name, (origin,), partial(_rotate_rows, config.text_config.head_dim))
    return Target(name, (origin,))


def _rotate_columns(head_dim: int, weight: Tensor) -> Tensor:
    """Channels from neighbours in pairs to halves of each head."""
    turned: Tensor = weight.unflatten(-1, (-1, head_dim // 2, 2)).transpose(-1, -2).flatten(-3)
    return turned


def _rotate_rows(head_dim: int, weight: Tensor) -> Tensor:
    return _rotate_columns(head_dim, weight.T).T


def _scale_kernel(size: Tensor, direction: Tensor) -> Tensor:
    """A convolution's kernel out of its norm at each offset, and its direction."""
    wide = direction.float()
    kernel: Tensor = size.float() * wide / wide.norm(dim=(0, 1), keepdim=True)
    return kernel.to(direction.dtype)


def _add_rows(count: int, table: Tensor) -> Tensor:
    """A table with `count` rows of zeros below."""
    return torch.cat([table, table.new_zeros(count, table.shape[1])])


def _processor(tokenizer: Any, config: Any) -> Any:
    from transformers import WhisperFeatureExtractor

    from fastadasp.models.wavllm.processor import WavLLMProcessor

    whisper = config.whisper_config
    window = whisper.max_source_positions // 50  # two frames of 10 ms a position
    return WavLLMProcessor(WhisperFeatureExtractor(feature_size=whisper.num_mel_bins, chunk_length=window), tokenizer)


def _generation(tokenizer: Any) -> Any:
    """As the released inference script decodes: sampled at temperature 0.5; an answer is not empty."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=True,
        temperature=0.5,
        top_k=0,
        max_new_tokens=512,
        min_new_tokens=1,
        suppress_tokens=[0],
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _shapes(config: Any) -> dict[str, tuple[int, ...]]:
    from fastadasp.models.wavllm.model import WavLLMForConditionalGeneration

    try:
        with torch.device("meta"):
            model = WavLLMForConditionalGeneration(config)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ModelError(f"the sizes of this checkpoint do not fit together: {error}") from None
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
