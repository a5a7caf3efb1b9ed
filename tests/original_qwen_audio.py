"""Qwen-Audio as its authors define it: a small checkpoint of random weights, and its formulas in float64.

Names, shapes and files follow ``modeling_qwen.py``, ``audio.py`` and ``tokenization_qwen.py`` of Qwen/Qwen-Audio; the
formulas are written anew from them, of plain functions, for one unpadded prompt at a time.
"""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

FIRST_SPECIAL = 300
"""Tokens of the small vocabulary: 256 bytes and 44 merges."""
AUDIO_START = FIRST_SPECIAL + 3520
"""Where <audio> stands among the 3522 special tokens: 155163 - 151643 in the released checkpoint."""
WORDS = (
    " the the the of of and speech speech audio audio text a an in is to transcribe numbers numbers \u00fc\u4f60\u597d"
)


def configuration(**changes: Any) -> dict[str, Any]:
    """config.json, scaled down."""
    audio = {"n_mels": 8, "n_ctx": 50, "n_state": 16, "n_head": 2, "n_layer": 2, "output_dim": 32, "avg_pool": True}
    audio |= {"add_audio_bos_eos_token": True, "audio_start_id": AUDIO_START} | changes.pop("audio", {})
    config = {
        "architectures": ["QWenLMHeadModel"],
        "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig"},
        "model_type": "qwen",
        "hidden_size": 32,
        "intermediate_size": 96,
        "kv_channels": 8,
        "layer_norm_epsilon": 1e-5,
        "max_position_embeddings": 8192,
        "no_bias": True,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "seq_length": 2048,
        "tie_word_embeddings": False,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "vocab_size": 3840,
    }
    return config | changes | {"audio": audio}


def weights(config: dict[str, Any], dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    """The state dict of QWenLMHeadModel, random."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}

    def put(name: str, *shape: int, around: float = 0.0) -> None:
        scale = 0.1 if len(shape) == 1 else 1.2 * (shape[1] * (shape[2] if len(shape) > 2 else 1)) ** -0.5
        made[name] = (around + scale * torch.randn(*shape, generator=generator)).to(dtype)

    def linear(name: str, out: int, into: int, bias: bool = True) -> None:
        put(f"{name}.weight", out, into)
        if bias:
            put(f"{name}.bias", out)

    def norm(name: str, width: int, bias: bool = True) -> None:
        put(f"{name}.weight", width, around=1.0)
        if bias:
            put(f"{name}.bias", width)

    d, audio = config["hidden_size"], config["audio"]
    width, half = config["kv_channels"] * config["num_attention_heads"], config["intermediate_size"] // 2
    put("transformer.wte.weight", config["vocab_size"], d)
    for i in range(config["num_hidden_layers"]):
        h = f"transformer.h.{i}"
        norm(f"{h}.ln_1", d, bias=False)
        linear(f"{h}.attn.c_attn", 3 * width, d)
        linear(f"{h}.attn.c_proj", d, width, bias=False)
        norm(f"{h}.ln_2", d, bias=False)
        linear(f"{h}.mlp.w1", half, d, bias=False)
        linear(f"{h}.mlp.w2", half, d, bias=False)
        linear(f"{h}.mlp.c_proj", d, half, bias=False)
    norm("transformer.ln_f", d, bias=False)
    a = audio["n_state"]
    for name, channels in (("conv1", audio["n_mels"]), ("conv2", a)):
        put(f"transformer.audio.{name}.weight", a, channels, 3)
        put(f"transformer.audio.{name}.bias", a)
    put("transformer.audio.positional_embedding", audio["n_ctx"], a)
    for i in range(audio["n_layer"]):
        b = f"transformer.audio.blocks.{i}"
        for name in ("query", "key", "value", "out"):
            linear(f"{b}.attn.{name}", a, a, bias=name != "key")
        norm(f"{b}.attn_ln", a)
        linear(f"{b}.mlp.0", 4 * a, a)
        linear(f"{b}.mlp.2", a, 4 * a)
        norm(f"{b}.mlp_ln", a)
    norm("transformer.audio.ln_post", a)
    linear("transformer.audio.proj", d, a)
    put("transformer.audio.audio_bos_eos_token.weight", 2, d)
    linear("lm_head", config["vocab_size"], d, bias=False)
    return made


def write(
    folder: Path,
    config: dict[str, Any] | None = None,
    *,
    shards: int = 3,
    form: str = "safetensors",
    chat: bool = True,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """A checkpoint folder in the hub's layout; gives back its weights. `form`: safetensors or bin."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config or configuration()
    made = weights(config, dtype)
    names = list(made)
    stem = "model" if form == "safetensors" else "pytorch_model"
    placed: dict[str, str] = {}
    for k in range(shards):
        file = f"{stem}-{k + 1:05d}-of-{shards:05d}.{form}"
        part = {name: made[name] for name in names[k * len(names) // shards : (k + 1) * len(names) // shards]}
        placed |= dict.fromkeys(part, file)
        if form == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
    index = {"metadata": {"total_size": 0}, "weight_map": placed}
    (folder / f"{stem}.{'safetensors' if form == 'safetensors' else 'bin'}.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"chat_format": "chatml" if chat else "raw", "do_sample": True, "top_k": 0, "top_p": 0.5}
    (folder / "generation_config.json").write_text(json.dumps(settings | {"max_new_tokens": 512, "eos_token_id": 0}))
    (folder / "qwen.tiktoken").write_text(vocabulary())
    return made


def ranks() -> dict[bytes, int]:
    """A byte-level vocabulary: all bytes, then the most frequent pair of `WORDS` again and again."""
    found = {bytes([(byte + 33) % 256]): byte for byte in range(256)}
    pieces = [bytes([byte]) for byte in WORDS.encode()]
    while len(found) < FIRST_SPECIAL:
        pairs = [pieces[i] + pieces[i + 1] for i in range(len(pieces) - 1)]
        best = max((p for p in pairs if p not in found and b" " not in p[1:]), key=lambda p: (pairs.count(p), p))
        found[best] = len(found)
        pieces = merge(pieces, found)
    return found


def merge(pieces: list[bytes], known: dict[bytes, int]) -> list[bytes]:
    """Joins neighbours, the pair of the lowest rank first, leftmost first, until none is known."""
    while True:
        joined = [(known[a + b], i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in known]
        if not joined:
            return pieces
        i = min(joined)[1]
        pieces = [*pieces[:i], pieces[i] + pieces[i + 1], *pieces[i + 2 :]]


def vocabulary() -> str:
    """qwen.tiktoken."""
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks().items())


def encoder(w: dict[str, Tensor], config: dict[str, Any], mel: Tensor, frames: int) -> Tensor:
    """A clip's audio tokens [N, D]: log-mel `mel` [mels, T] of which the first `frames` are the clip's."""
    w = {k.removeprefix("transformer.audio."): v.double() for k, v in w.items() if k.startswith("transformer.audio.")}
    heads, count = config["audio"]["n_head"], (frames - 1) // 2 + 1
    x = mel.double().unsqueeze(0)
    x = functional.gelu(functional.conv1d(x, w["conv1.weight"], w["conv1.bias"], padding=1))
    x = functional.gelu(functional.conv1d(x, w["conv2.weight"], w["conv2.bias"], stride=2, padding=1))
    x = x[0].T + w["positional_embedding"][: x.shape[2]]
    x = x[:count]  # what lies beyond is hidden from every attention
    for i in range(config["audio"]["n_layer"]):
        b = f"blocks.{i}."

        def apply(name: str, y: Tensor, b: str = b) -> Tensor:
            bias = w.get(f"{b}{name}.bias")
            return y @ w[f"{b}{name}.weight"].T + (0 if bias is None else bias)

        y = layer_norm(x, w[b + "attn_ln.weight"], w[b + "attn_ln.bias"])
        q, k, v = (apply(f"attn.{n}", y).unflatten(1, (heads, -1)).transpose(0, 1) for n in ("query", "key", "value"))
        attention = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = x + apply("attn.out", (attention @ v).transpose(0, 1).flatten(1))
        y = layer_norm(x, w[b + "mlp_ln.weight"], w[b + "mlp_ln.bias"])
        x = x + apply("mlp.2", functional.gelu(apply("mlp.0", y)))
    pooled = x[: count // 2 * 2].unflatten(0, (-1, 2)).mean(1)
    pooled = layer_norm(pooled, w["ln_post.weight"], w["ln_post.bias"])
    return pooled @ w["proj.weight"].T + w["proj.bias"]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def embed(w: dict[str, Tensor], config: dict[str, Any], ids: Tensor, clips: list[Tensor]) -> Tensor:
    """The decoder's input [T, D]: start embedding, audio tokens and end embedding in the place of each clip."""
    x = w["transformer.wte.weight"].double()[ids]
    around = w["transformer.audio.audio_bos_eos_token.weight"].double()
    starts = (ids == config["audio"]["audio_start_id"]).nonzero().flatten().tolist()
    ends = (ids == config["audio"]["audio_start_id"] + 1).nonzero().flatten().tolist()
    for a, b, clip in zip(starts, ends, clips, strict=True):
        x[a : b + 1] = torch.cat([around[:1], clip, around[1:]])
    return x


def decoder(w: dict[str, Tensor], config: dict[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """Final hidden states [T, D] and logits [T, words] of the input `x` [T, D]."""
    w = {name: tensor.double() for name, tensor in w.items()}
    heads, dim, eps, length = config["num_attention_heads"], config["kv_channels"], config["layer_norm_epsilon"], len(x)
    base = config["rotary_emb_base"]
    angles = torch.arange(length).double().outer(base ** (-torch.arange(0, dim, 2).double() / dim))
    turn = torch.cat([angles, angles], 1)

    def rotate(y: Tensor) -> Tensor:
        halves = torch.cat([-y[..., dim // 2 :], y[..., : dim // 2]], -1)
        return y * turn.cos() + halves * turn.sin()

    later = torch.ones(length, length).triu(1).bool()
    for i in range(config["num_hidden_layers"]):
        h = f"transformer.h.{i}."
        y = rms_norm(x, w[h + "ln_1.weight"], eps)
        mixed = y @ w[h + "attn.c_attn.weight"].T + w[h + "attn.c_attn.bias"]
        q, k, v = (part.unflatten(1, (heads, dim)).transpose(0, 1) for part in mixed.split(config["hidden_size"], 1))
        scores = rotate(q) @ rotate(k).mT / dim**0.5
        mixed = (scores.masked_fill(later, -torch.inf).softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + mixed @ w[h + "attn.c_proj.weight"].T
        y = rms_norm(x, w[h + "ln_2.weight"], eps)
        inner = (y @ w[h + "mlp.w1.weight"].T) * functional.silu(y @ w[h + "mlp.w2.weight"].T)
        x = x + inner @ w[h + "mlp.c_proj.weight"].T
    x = rms_norm(x, w["transformer.ln_f.weight"], eps)
    return x, x @ w["lm_head.weight"].T
