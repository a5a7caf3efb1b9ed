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

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadasp.convert.plan import Conversion, Target
from fastadasp.convert.qwen_tokenizer import AUDIO, END, FORMATS, START, make_processor, token_ids
from fastadasp.convert.source import Source, counted, open_folder, read_json
from fastadasp.errors import ModelError

BUFFERS = (r".*\.(masked_bias|inv_freq|logn_tensor)",)
"""Constants that some versions of the original saved with the weights."""

LARGEST = 1 << 24
"""Of any size in a configuration: far above those of models that exist, and within what tensors can have."""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


GENERATION: dict[str, tuple[Callable[[Any], bool], str]] = {
    "do_sample": (lambda x: isinstance(x, bool), "true or false"),
    "top_k": (lambda x: _whole(x) and x >= 0, "a whole number of at least 0"),
    "top_p": (lambda x: _is_number(x) and 0 <= x <= 1, "a number from 0 to 1"),
    "temperature": (lambda x: _is_number(x) and x >= 0, "a number of at least 0"),
    "repetition_penalty": (lambda x: _is_number(x) and x > 0, "a number above 0"),
    "max_new_tokens": (lambda x: _whole(x) and x >= 1, "a whole number of at least 1"),
}
"""The settings of generation that are taken over, and what each may be."""


def prepare(folder: Path) -> Conversion:
    """The conversion of a folder of Qwen/Qwen-Audio or Qwen/Qwen-Audio-Chat.

    Raises:
        ModelError: files are missing, or the configuration asks for what Qwen2-Audio does not have.
    """
    config = read_config(folder)
    vocabulary = folder / "qwen.tiktoken"
    if not vocabulary.is_file():
        raise ModelError(f"{folder} lacks qwen.tiktoken, the vocabulary of its tokenizer")
    settings = _settings(folder / "generation_config.json")
    style = settings.get("chat_format", "raw")
    ids = token_ids(vocabulary)
    start = config["audio"].get("audio_start_id")
    if ids[START] != start or ids[END] >= config["vocab_size"]:
        raise ModelError(
            f"{folder}: config.json puts {START} at id {start} of {config['vocab_size']}, "
            f"but qwen.tiktoken puts it at {ids[START]}"
        )
    source = open_folder(folder)
    for name, said, layer in (
        ("num_hidden_layers", config["num_hidden_layers"], r"transformer\.h\.(\d+)\."),
        ("audio.n_layer", config["audio"]["n_layer"], r"transformer\.audio\.blocks\.(\d+)\."),
    ):
        if (held := counted(source.shapes, layer)) != said:
            raise ModelError(f"{folder}: config.json says {name} is {said}, but the weights are of {held} layers")
    try:
        made = _configuration(config, ids, source)
        shapes = _shapes(made)
    except (ValueError, TypeError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"{folder / 'config.json'}: the sizes do not fit together: {first}") from None
    generation = _generation(settings, ids, style)

    def finish(target: Path) -> None:
        make_processor(vocabulary, style, config["audio"]["n_mels"], config["audio"]["n_ctx"]).save_pretrained(target)
        generation.save_pretrained(target)
        made.save_pretrained(target)

    return Conversion("qwen-audio", source, _expected(config), _targets(config, ids), shapes, finish, BUFFERS)


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
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "kv_channels",
        "seq_length",
    )
    audio = ("n_mels", "n_ctx", "n_state", "n_head", "n_layer", "output_dim")
    for section, names in ((config, sizes), (config["audio"], audio)):
        for name in names:
            _check_size(path, name, section)
    for name in ("rotary_emb_base", "layer_norm_epsilon"):
        if not _is_number(config[name]) or config[name] <= 0:
            raise ModelError(f"{path}: {name} is {_told(config[name])}; expected a number above 0")
    width = config["kv_channels"] * config["num_attention_heads"]
    for wrong, message in (
        (width != config["hidden_size"], f"kv_channels x num_attention_heads is {width}, not hidden_size"),
        (config["intermediate_size"] % 2, f"intermediate_size is {config['intermediate_size']}, which is odd"),
        (config["rotary_pct"] != 1.0, f"rotary_pct is {_told(config['rotary_pct'])}; only 1.0 is known"),
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
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
        wanted = "at least 1" if not isinstance(value, int) or value < 1 else f"at most {LARGEST}"
        raise ModelError(f"{path}: {name} is {_told(value)}; expected a whole number of {wanted}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _told(value: Any) -> str:
    """A value of somebody's file, for a message."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _settings(path: Path) -> dict[str, Any]:
    """``generation_config.json``, whose values can be what they are for; empty where there is none."""
    settings = read_json(path) if path.exists() or path.is_symlink() else {}
    style = settings.get("chat_format", "raw")
    if not isinstance(style, str) or style not in FORMATS:
        raise ModelError(f"{path}: chat_format is {_told(style)}; known: {', '.join(FORMATS)}")
    for name, (good, wanted) in GENERATION.items():
        if name in settings and not good(settings[name]):
            raise ModelError(f"{path}: {name} is {_told(settings[name])}; expected {wanted}")
    return settings


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

    ends = [ids[token] for token in FORMATS[style].ends]
    kept = {name: settings[name] for name in GENERATION if name in settings}
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
