"""Qwen-Audio and Qwen-Audio-Chat as transformers' Qwen2-Audio, which computes the same within 2048 tokens.

Source of names and formulas: ``modeling_qwen.py``, ``audio.py`` and ``config.json`` of Qwen/Qwen-Audio.

- The decoder is Qwen2's with as many key/value heads as heads: ``c_attn`` holds queries, keys and values one below the
  other, with a bias; ``w1`` is the up and ``w2`` the gate projection (``w1(x) * silu(w2(x))``); ``intermediate_size``
  counts both.
- The encoder is Whisper's; its output is averaged in pairs, then normed (``ln_post``), then projected (``proj``), which
  is the order of Qwen2-Audio.
- The learned start and end embeddings are put, unprojected, in place of the embeddings of ``<audio>`` and ``</audio>``
  around each clip. As rows of the token embedding they do just that.
- Beyond ``seq_length`` (2048) tokens the original enlarges the rotary base by steps (``use_dynamic_ntk``) and scales
  queries by the logarithm of their position (``use_logn_attn``). Up to there both change nothing; beyond it Qwen2 has
  no such thing, so ``max_position_embeddings`` is set to it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadasp.convert.plan import Conversion, Target
from fastadasp.convert.qwen_tokenizer import AUDIO, END, FORMATS, START, make_processor, token_ids
from fastadasp.convert.source import Source, open_folder, read_json
from fastadasp.errors import ModelError

BUFFERS = (r".*\.(masked_bias|inv_freq|logn_tensor)",)
"""Constants that some versions of the original saved with the weights."""


def prepare(folder: Path) -> Conversion:
    """The conversion of a folder of Qwen/Qwen-Audio or Qwen/Qwen-Audio-Chat.

    Raises:
        ModelError: files are missing, or the configuration asks for what Qwen2-Audio does not have.
    """
    config = read_config(folder)
    vocabulary = folder / "qwen.tiktoken"
    if not vocabulary.is_file():
        raise ModelError(f"{folder} lacks qwen.tiktoken, the vocabulary of its tokenizer")
    settings = read_json(folder / "generation_config.json") if (folder / "generation_config.json").is_file() else {}
    style = settings.get("chat_format", "raw")
    if style not in FORMATS:
        raise ModelError(f"{folder / 'generation_config.json'}: chat_format is {style!r}; known: {', '.join(FORMATS)}")
    ids = token_ids(vocabulary)
    start = config["audio"].get("audio_start_id")
    if ids[START] != start or ids[END] >= config["vocab_size"]:
        raise ModelError(
            f"{folder}: config.json puts {START} at id {start} of {config['vocab_size']}, "
            f"but qwen.tiktoken puts it at {ids[START]}"
        )
    source = open_folder(folder)
    made = _configuration(config, ids, source)

    def finish(target: Path) -> None:
        make_processor(vocabulary, style, config["audio"]["n_mels"], config["audio"]["n_ctx"]).save_pretrained(target)
        _generation(settings, ids, style).save_pretrained(target)
        made.save_pretrained(target)

    return Conversion("qwen-audio", source, _expected(config), _targets(config, ids), _shapes(made), finish, BUFFERS)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of Qwen-Audio, whole. Raises ModelError if it is not one, or not one that Qwen2-Audio can be."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} is not a Qwen-Audio checkpoint: it has no config.json")
    config = read_json(path)
    if config.get("model_type") != "qwen" or not isinstance(config.get("audio"), dict):
        raise ModelError(
            f"{path} is not that of Qwen-Audio: expected model_type 'qwen' and a section 'audio', "
            f"found model_type {config.get('model_type')!r}"
        )
    usual = {"kv_channels": 128, "rotary_pct": 1.0, "rotary_emb_base": 10000, "no_bias": True, "seq_length": 2048}
    config = {"layer_norm_epsilon": 1e-6, "tie_word_embeddings": False, **usual, **config}
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    audio = ("n_mels", "n_ctx", "n_state", "n_head", "n_layer", "output_dim")
    for section, names in ((config, sizes), (config["audio"], audio)):
        for name in names:
            _check_size(path, name, section)
    width = config["kv_channels"] * config["num_attention_heads"]
    for wrong, message in (
        (width != config["hidden_size"], f"kv_channels x num_attention_heads is {width}, not hidden_size"),
        (config["rotary_pct"] != 1.0, f"rotary_pct is {config['rotary_pct']}; only 1.0 is known"),
        (not config["no_bias"], "no_bias is false; Qwen2 has no biases there"),
        (config["tie_word_embeddings"], "tie_word_embeddings is true; the start and end embeddings would change it"),
        (not config["audio"].get("avg_pool", True), "audio.avg_pool is false; Qwen2-Audio always pools"),
        (not config["audio"].get("add_audio_bos_eos_token", True), "audio.add_audio_bos_eos_token is false"),
        (config["audio"]["output_dim"] != config["hidden_size"], "audio.output_dim is not hidden_size"),
    ):
        if wrong:
            raise ModelError(f"{path} cannot be expressed as Qwen2-Audio: {message}")
    return config


def _check_size(path: Path, name: str, section: dict[str, Any]) -> None:
    value = section.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{path}: {name} is {value!r}; expected a whole number of at least 1")


def _configuration(config: dict[str, Any], ids: dict[str, int], source: Source) -> Any:
    from transformers import Qwen2AudioConfig

    audio = config["audio"]
    return Qwen2AudioConfig(
        audio_config={
            "d_model": audio["n_state"],
            "encoder_layers": audio["n_layer"],
            "encoder_attention_heads": audio["n_head"],
            "encoder_ffn_dim": 4 * audio["n_state"],
            "num_mel_bins": audio["n_mels"],
            "max_source_positions": audio["n_ctx"],
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": config["vocab_size"],
            "hidden_size": config["hidden_size"],
            "intermediate_size": config["intermediate_size"] // 2,
            "num_hidden_layers": config["num_hidden_layers"],
            "num_attention_heads": config["num_attention_heads"],
            "num_key_value_heads": config["num_attention_heads"],
            "max_position_embeddings": config["seq_length"],
            "rms_norm_eps": config["layer_norm_epsilon"],
            "rope_parameters": {"rope_type": "default", "rope_theta": float(config["rotary_emb_base"])},
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": ids["<|endoftext|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        audio_token_index=ids[AUDIO],
        tie_word_embeddings=False,  # type: ignore[call-arg]
        architectures=["Qwen2AudioForConditionalGeneration"],
        dtype=next((d for n, d in source.dtypes.items() if n.endswith("wte.weight")), torch.float32),
    )


def _generation(settings: dict[str, Any], ids: dict[str, int], style: str) -> Any:
    """The original's settings; its stop words, a single token each, become ends of text."""
    from transformers import GenerationConfig

    known = ("do_sample", "top_k", "top_p", "temperature", "repetition_penalty", "max_new_tokens")
    ends = [ids[token] for token in FORMATS[style].ends]
    kept = {name: settings[name] for name in known if name in settings}
    return GenerationConfig(**kept, eos_token_id=ends, pad_token_id=ids["<|endoftext|>"])


def _shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a Qwen2-Audio checkpoint has (not quite the model's own names), taken from the model."""
    from transformers import Qwen2AudioForConditionalGeneration

    with torch.device("meta"):
        model = Qwen2AudioForConditionalGeneration(config)
    ours = {"model.language_model.": "language_model.model.", "model.": "", "": "language_model."}  # lm_head comes last
    shapes = {}
    for name, tensor in model.state_dict().items():
        start = next(start for start in ours if name.startswith(start))
        shapes[ours[start] + name.removeprefix(start)] = tuple(tensor.shape)
    return shapes


_LAYER = {
    "ln_1.weight": "input_layernorm.weight",
    "ln_2.weight": "post_attention_layernorm.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
    "mlp.w1.weight": "mlp.up_proj.weight",
    "mlp.w2.weight": "mlp.gate_proj.weight",
    "mlp.c_proj.weight": "mlp.down_proj.weight",
}
_BLOCK = {
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "attn_ln": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
}
_AROUND = {
    "audio.conv1": "audio_tower.conv1",
    "audio.conv2": "audio_tower.conv2",
    "audio.ln_post": "audio_tower.layer_norm",
    "audio.proj": "multi_modal_projector.linear",
}


def _targets(config: dict[str, Any], ids: dict[str, int]) -> list[Target]:
    """Every tensor of Qwen2-Audio, and what it is made of."""
    place = slice(ids[START], ids[START] + 2)
    if ids[END] != ids[START] + 1:
        raise ModelError(f"{END} does not follow {START} in the vocabulary")
    embedding = ("transformer.wte.weight", "transformer.audio.audio_bos_eos_token.weight")
    targets = [
        Target("language_model.model.embed_tokens.weight", embedding, partial(_put_rows, place)),
        Target("language_model.model.norm.weight", ("transformer.ln_f.weight",)),
        Target("language_model.lm_head.weight", ("lm_head.weight",)),
        Target("audio_tower.embed_positions.weight", ("transformer.audio.positional_embedding",)),
    ]
    for i in range(config["num_hidden_layers"]):
        ours, theirs = f"language_model.model.layers.{i}", f"transformer.h.{i}"
        targets += [Target(f"{ours}.{new}", (f"{theirs}.{old}",)) for old, new in _LAYER.items()]
        for end in ("weight", "bias"):
            for third, name in enumerate(("q_proj", "k_proj", "v_proj")):
                fused = (f"{theirs}.attn.c_attn.{end}",)
                targets.append(Target(f"{ours}.self_attn.{name}.{end}", fused, partial(_third, third)))
    pairs = {f"transformer.{old}": new for old, new in _AROUND.items()}
    for i in range(config["audio"]["n_layer"]):
        old_new = _BLOCK.items()
        pairs |= {f"transformer.audio.blocks.{i}.{old}": f"audio_tower.layers.{i}.{new}" for old, new in old_new}
    for old, new in pairs.items():
        ends = ("weight",) if old.endswith("attn.key") else ("weight", "bias")
        targets += [Target(f"{new}.{end}", (f"{old}.{end}",)) for end in ends]
    return targets


def _third(index: int, fused: Tensor) -> Tensor:
    """Queries, keys or values out of the projection that makes all three."""
    return fused.chunk(3)[index]


def _put_rows(place: slice, table: Tensor, rows: Tensor) -> Tensor:
    """A table with other rows at `place`."""
    table = table.clone()
    table[place] = rows.to(table.dtype)
    return table


def _expected(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of the original, with its shape."""
    d, words, mlp = config["hidden_size"], config["vocab_size"], config["intermediate_size"] // 2
    audio = config["audio"]
    a, mels = audio["n_state"], audio["n_mels"]
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (words, d)}
    for i in range(config["num_hidden_layers"]):
        layer = {
            "ln_1.weight": (d,),
            "ln_2.weight": (d,),
            "attn.c_attn.weight": (3 * d, d),
            "attn.c_attn.bias": (3 * d,),
            "attn.c_proj.weight": (d, d),
            "mlp.w1.weight": (mlp, d),
            "mlp.w2.weight": (mlp, d),
            "mlp.c_proj.weight": (d, mlp),
        }
        shapes |= {f"transformer.h.{i}.{name}": shape for name, shape in layer.items()}
    shapes |= {"transformer.ln_f.weight": (d,), "lm_head.weight": (words, d)}
    shapes |= {"transformer.audio.positional_embedding": (audio["n_ctx"], a)}
    shapes |= _with_bias("transformer.audio.conv1", (a, mels, 3)) | _with_bias("transformer.audio.conv2", (a, a, 3))
    for i in range(audio["n_layer"]):
        block = f"transformer.audio.blocks.{i}"
        for name in ("query", "value", "out"):
            shapes |= _with_bias(f"{block}.attn.{name}", (a, a))
        shapes |= {f"{block}.attn.key.weight": (a, a)} | _with_bias(f"{block}.attn_ln", (a,))
        shapes |= _with_bias(f"{block}.mlp.0", (4 * a, a)) | _with_bias(f"{block}.mlp.2", (a, 4 * a))
        shapes |= _with_bias(f"{block}.mlp_ln", (a,))
    shapes |= _with_bias("transformer.audio.ln_post", (a,)) | _with_bias("transformer.audio.proj", (d, a))
    return shapes | {"transformer.audio.audio_bos_eos_token.weight": (2, d)}


def _with_bias(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """A weight and its bias of one value a row."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
