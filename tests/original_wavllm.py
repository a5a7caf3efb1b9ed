"""WavLLM as its authors define it: a small checkpoint of random weights, and its formulas in float64.

Names and shapes follow ``speechllm_model.py``, ``whisper_encoder.py``, ``wavlm.py`` and ``llama.py`` of
microsoft/SpeechT5 (folder WavLLM), the two encoders' those of transformers 4.32, which they were saved from. The
formulas are written anew, of plain functions, for one clip and one prompt at a time, as the released script runs them.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LLAMA = "gpt_model.model_llama"
WHISPER, WAVLM = "audio_encoder.model.", "wavlm_encoder.model."
STRIDES, KERNELS = (5, 2, 2, 2, 2, 2, 2), (10, 3, 3, 3, 3, 2, 2)
SIZES = {
    "mels": 80,
    "positions": 150,
    "whisper": 128,
    "whisper_layers": 2,
    "wavlm": 32,
    "wavlm_heads": 2,
    "wavlm_layers": 3,
    "channels": 12,
    "hidden": 256,
    "mlp": 96,
    "layers": 3,
    "words": 300,
    "rank": 4,
    "size": 24,
    "bottleneck": 10,
    "output": 20,
    "inner": 14,
}
"""Scaled down; heads of 64 channels in Whisper and 128 in LLaMA, as in the released checkpoint."""


def weights(sizes: dict[str, int] = SIZES, seed: int = 0) -> dict[str, Tensor]:
    """The state dict of SpeechLLMModel, random."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}

    def put(name: str, *shape: int, around: float = 0.0, scale: float = 1.2) -> None:
        spread = 0.1 if len(shape) == 1 else scale * math.prod(shape[1:]) ** -0.5
        made[name] = around + spread * torch.randn(*shape, generator=generator)

    def linear(name: str, out: int, into: int, bias: bool = True) -> None:
        put(f"{name}.weight", out, into)
        if bias:
            put(f"{name}.bias", out)

    def norm(name: str, width: int) -> None:
        put(f"{name}.weight", width, around=1.0)
        put(f"{name}.bias", width)

    def adapter(name: str, before: int, inner: int) -> None:
        size, bottleneck, output = sizes["size"], sizes["bottleneck"], sizes["output"]
        for i, (into, out) in enumerate(((before, inner), (inner // 2, 2 * size))):
            put(f"{name}.subsample.conv_layers.{i}.weight", out, into, 3)
            put(f"{name}.subsample.conv_layers.{i}.bias", out)
        linear(f"{name}.adapter.down_layer", bottleneck, size)
        linear(f"{name}.adapter.up_layer", size, bottleneck)
        norm(f"{name}.adapter.layer_norm", size)
        linear(f"{name}.projector", output, size)

    d = sizes["whisper"]
    for name, into in (("conv1", sizes["mels"]), ("conv2", d)):
        put(f"{WHISPER}{name}.weight", d, into, 3)
        put(f"{WHISPER}{name}.bias", d)
    put(f"{WHISPER}embed_positions.weight", sizes["positions"], d)
    for i in range(sizes["whisper_layers"]):
        h = f"{WHISPER}layers.{i}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            linear(f"{h}.self_attn.{name}", d, d, bias=name != "k_proj")
        norm(f"{h}.self_attn_layer_norm", d)
        linear(f"{h}.fc1", 4 * d, d)
        linear(f"{h}.fc2", d, 4 * d)
        norm(f"{h}.final_layer_norm", d)
    norm(f"{WHISPER}layer_norm", d)
    adapter("audio_encoder", d, 2 * d)

    s, c = sizes["wavlm"], sizes["channels"]
    put(f"{WAVLM}masked_spec_embed", s)
    for i, kernel in enumerate(KERNELS):
        put(f"{WAVLM}feature_extractor.conv_layers.{i}.conv.weight", c, c if i else 1, kernel, scale=2.0)
    norm(f"{WAVLM}feature_extractor.conv_layers.0.layer_norm", c)
    norm(f"{WAVLM}feature_projection.layer_norm", c)
    linear(f"{WAVLM}feature_projection.projection", s, c)
    put(f"{WAVLM}encoder.pos_conv_embed.conv.bias", s)
    put(f"{WAVLM}encoder.pos_conv_embed.conv.weight_g", 1, 1, 16, around=1.0)
    put(f"{WAVLM}encoder.pos_conv_embed.conv.weight_v", s, s // 4, 16)
    norm(f"{WAVLM}encoder.layer_norm", s)
    for i in range(sizes["wavlm_layers"]):
        h = f"{WAVLM}encoder.layers.{i}"
        put(f"{h}.attention.gru_rel_pos_const", 1, sizes["wavlm_heads"], 1, 1, around=1.0)
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            linear(f"{h}.attention.{name}", s, s)
        linear(f"{h}.attention.gru_rel_pos_linear", 8, s // sizes["wavlm_heads"])
        if i == 0:
            put(f"{h}.attention.rel_attn_embed.weight", 320, sizes["wavlm_heads"])
        norm(f"{h}.layer_norm", s)
        linear(f"{h}.feed_forward.intermediate_dense", 4 * s, s)
        linear(f"{h}.feed_forward.output_dense", s, 4 * s)
        norm(f"{h}.final_layer_norm", s)
    adapter("wavlm_encoder", s, 16)
    put("wavlm_encoder.output_weights", sizes["wavlm_layers"] + 1, around=1.0)
    linear("wavlm_audio_proj", sizes["hidden"], 2 * sizes["output"])
    linear("audio_proj", sizes["hidden"], sizes["output"])

    d = sizes["hidden"]
    linear(f"{LLAMA}.scale_fc_1", sizes["inner"], d)
    linear(f"{LLAMA}.scale_fc_2", d, sizes["inner"])
    made[f"{LLAMA}.scale_fc_2.bias"] += 0.5
    linear(f"{LLAMA}.scale_weight_attention", 1, d)
    put(f"{LLAMA}.tok_embeddings.weight", sizes["words"], d)
    for i in range(sizes["layers"]):
        h = f"{LLAMA}.layers.{i}"
        for name, gain in (("wq", 0.6), ("wk", 0.6), ("wv", 1.2), ("wo", 1.2)):
            put(f"{h}.attention.{name}.weight", d, d, scale=gain)
            put(f"{h}.attention.{name}_lora_A", d, sizes["rank"], scale=0.1)
            put(f"{h}.attention.{name}_lora_B", sizes["rank"], d, scale=2.0)
        linear(f"{h}.feed_forward.w1", sizes["mlp"], d, bias=False)
        linear(f"{h}.feed_forward.w2", d, sizes["mlp"], bias=False)
        linear(f"{h}.feed_forward.w3", sizes["mlp"], d, bias=False)
        put(f"{h}.attention_norm.weight", d, around=1.0)
        put(f"{h}.ffn_norm.weight", d, around=1.0)
    put(f"{LLAMA}.norm.weight", d, around=1.0)
    linear(f"{LLAMA}.output", sizes["words"], d, bias=False)
    return made


def write(path: Path, model: dict[str, Any] | None = None, **more: Any) -> None:
    """final.pt, as fairseq's trainer saves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "args": argparse.Namespace(task="speechllm_task"),
        "cfg": {"task": {"lora_r": 32, "use_wavlm": True}, "model": None},
        "model": weights() if model is None else model,
        "optimizer_history": [{"num_updates": 3, "lr_scheduler_state": {"best": 1.5}}],
        "extra_state": {"epoch": 1, "val_loss": torch.tensor(1.0).double().numpy()[()]},
    }
    torch.save(state | more, path)


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of LLaMA's kind: spaces are letters, one goes before each text, unknown letters become bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581\u2581", "\u2581", *"abcdeg"]
    words += [*'hilnorstuEIPNSTWCYH</>[]?".']
    words = list(dict.fromkeys(words))
    words += [f"\u2581word{i}" for i in range(SIZES["words"] - len(words))]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("\u2581", "\u2581")], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ("<unk>", "<s>", "</s>")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)


def spelled(text: str) -> list[int]:
    """What that tokenizer makes of a text without special tokens."""
    letters = [*'\u2581abcdeghilnorstuEIPNSTWCYH</>[]?".']
    ids, rest = [], "\u2581" + text.replace(" ", "\u2581")
    while rest:
        if rest.startswith("\u2581\u2581"):
            ids.append(259)
            rest = rest[2:]
            continue
        letter, rest = rest[0], rest[1:]
        ids += [260 + letters.index(letter)] if letter in letters else [3 + byte for byte in letter.encode()]
    return ids


class Reference:
    """The original's computation in float64."""

    def __init__(self, model: dict[str, Tensor], sizes: dict[str, int] = SIZES) -> None:
        self.w, self.sizes = {name: tensor.double() for name, tensor in model.items()}, sizes

    def linear(self, name: str, x: Tensor) -> Tensor:
        bias = self.w.get(f"{name}.bias")
        return x @ self.w[f"{name}.weight"].T + (0 if bias is None else bias)

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def whisper(self, mel: Tensor, frames: int) -> Tensor:
        """Whisper hears the whole window [mels, T]; what lies behind the clip's `frames` is then cut off."""
        w, x = self.w, mel.double().unsqueeze(0)
        for name, stride in (("conv1", 1), ("conv2", 2)):
            weight, bias = w[f"{WHISPER}{name}.weight"], w[f"{WHISPER}{name}.bias"]
            x = functional.gelu(functional.conv1d(x, weight, bias, stride=stride, padding=1))
        x = x[0].T + w[f"{WHISPER}embed_positions.weight"]
        for i in range(self.sizes["whisper_layers"]):
            h = f"{WHISPER}layers.{i}"
            y = self.norm(f"{h}.self_attn_layer_norm", x)
            q, k, v = (
                self.linear(f"{h}.self_attn.{n}_proj", y).unflatten(1, (-1, 64)).transpose(0, 1)
                for n in ("q", "k", "v")
            )
            mixed = ((q @ k.mT / 8).softmax(-1) @ v).transpose(0, 1).flatten(1)
            x = x + self.linear(f"{h}.self_attn.out_proj", mixed)
            y = functional.gelu(self.linear(f"{h}.fc1", self.norm(f"{h}.final_layer_norm", x)))
            x = x + self.linear(f"{h}.fc2", y)
        return self.norm(f"{WHISPER}layer_norm", x)[: (frames - 1) // 2 + 1]

    def wavlm(self, wave: Tensor) -> Tensor:
        """The softmax-weighted mean of all hidden states, for samples [S]."""
        w, x = self.w, wave.double().view(1, 1, -1)
        for i, stride in enumerate(STRIDES):
            name = f"{WAVLM}feature_extractor.conv_layers.{i}"
            x = functional.conv1d(x, w[f"{name}.conv.weight"], stride=stride)
            if i == 0:
                centred = x - x.mean(-1, keepdim=True)
                x = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
                x = x * w[f"{name}.layer_norm.weight"][:, None] + w[f"{name}.layer_norm.bias"][:, None]
            x = functional.gelu(x)
        x = self.norm(f"{WAVLM}feature_projection.layer_norm", x[0].T)
        x = self.linear(f"{WAVLM}feature_projection.projection", x)
        name = f"{WAVLM}encoder.pos_conv_embed.conv"
        v = w[f"{name}.weight_v"]
        kernel = v / v.pow(2).sum((0, 1), keepdim=True).sqrt() * w[f"{name}.weight_g"]
        around = functional.conv1d(x.T.unsqueeze(0), kernel, w[f"{name}.bias"], padding=8, groups=4)
        x = self.norm(f"{WAVLM}encoder.layer_norm", x + functional.gelu(around[0, :, :-1]).T)
        states = [x]
        for i in range(self.sizes["wavlm_layers"]):
            states.append(self._wavlm_layer(f"{WAVLM}encoder.layers.{i}", states[-1]))
        shares = w["wavlm_encoder.output_weights"].softmax(0)
        return sum(share * state for share, state in zip(shares, states, strict=True))  # type: ignore[return-value]

    def _wavlm_layer(self, h: str, x: Tensor) -> Tensor:
        heads, length = self.sizes["wavlm_heads"], len(x)
        q, k, v = (
            self.linear(f"{h}.attention.{n}_proj", x).unflatten(1, (heads, -1)).transpose(0, 1) for n in ("q", "k", "v")
        )
        split = x.unflatten(1, (heads, -1)).transpose(0, 1)
        gates = self.linear(f"{h}.attention.gru_rel_pos_linear", split).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        const = self.w[f"{h}.attention.gru_rel_pos_const"][0]
        gate = gates[..., :1] * (gates[..., 1:] * const - 1) + 2
        table = self.w[f"{WAVLM}encoder.layers.0.attention.rel_attn_embed.weight"]
        distance = torch.arange(length)[None] - torch.arange(length)[:, None]
        bias = table[self._bucket(distance)].permute(2, 0, 1)
        scores = q @ k.mT / q.shape[-1] ** 0.5 + gate * bias
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = self.norm(f"{h}.layer_norm", x + self.linear(f"{h}.attention.out_proj", mixed))
        y = self.linear(f"{h}.feed_forward.intermediate_dense", x)
        return self.norm(f"{h}.final_layer_norm", x + self.linear(f"{h}.feed_forward.output_dense", functional.gelu(y)))

    @staticmethod
    def _bucket(distance: Tensor) -> Tensor:
        """320 buckets: half for what lies ahead; of each half, half exact and the rest logarithmic up to 800."""
        far = distance.abs()
        logarithmic = 80 + (far.clamp(min=1).float() / 80).log() / math.log(800 / 80) * 80
        return (distance > 0) * 160 + torch.where(far < 80, far, logarithmic.long().clamp(max=159))

    def adapt(self, name: str, x: Tensor) -> Tensor:
        """[T, D] -> [about T / 4, output]."""
        y = x.T.unsqueeze(0)
        for i in range(2):
            layer = f"{name}.subsample.conv_layers.{i}"
            y = functional.conv1d(y, self.w[f"{layer}.weight"], self.w[f"{layer}.bias"], stride=2, padding=1)
            value, gate = y.chunk(2, dim=1)
            y = value * gate.sigmoid()
        y = y[0].T
        inner = functional.gelu(self.linear(f"{name}.adapter.down_layer", y))
        y = self.norm(f"{name}.adapter.layer_norm", self.linear(f"{name}.adapter.up_layer", inner)) + y
        return self.linear(f"{name}.projector", y)

    def audio(self, mel: Tensor, frames: int, wave: Tensor) -> Tensor:
        """A clip's audio tokens [N, hidden]."""
        heard, said = (
            self.adapt("audio_encoder", self.whisper(mel, frames)),
            self.adapt("wavlm_encoder", self.wavlm(wave)),
        )
        count = min(len(heard), len(said))
        return self.linear("wavlm_audio_proj", torch.cat([heard[:count], said[:count]], 1))

    def prompt_scale(self, prompt: list[int]) -> Tensor:
        """The LoRA's scale [hidden] for an instruction's ids."""
        states = self.layers(self.w[f"{LLAMA}.tok_embeddings.weight"][prompt], None)
        inner = functional.gelu(self.linear(f"{LLAMA}.scale_fc_1", states))
        scale = self.linear(f"{LLAMA}.scale_fc_2", inner)
        weights = self.linear(f"{LLAMA}.scale_weight_attention", scale).softmax(0)
        return (scale * weights).sum(0).relu().clamp(max=3)

    def logits(self, before: list[int], audio: Tensor, after: list[int], prompt: list[int]) -> Tensor:
        """[T, words] for the ids before the clip, its tokens, and the ids after it."""
        table = self.w[f"{LLAMA}.tok_embeddings.weight"]
        states = self.layers(torch.cat([table[before], audio, table[after]]), self.prompt_scale(prompt))
        return self.linear(f"{LLAMA}.output", self.rms_norm(f"{LLAMA}.norm", states))

    def rms_norm(self, name: str, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * self.w[f"{name}.weight"]

    def layers(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """All of LLaMA's layers; without LoRA where `scale` is None. Rotary embedding turns pairs of neighbours."""
        length = len(x)
        angles = torch.arange(length).double().outer(10000.0 ** (-torch.arange(0, 128, 2).double() / 128))
        turn = torch.polar(torch.ones_like(angles), angles).unsqueeze(1)

        def rotate(y: Tensor) -> Tensor:
            return torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(2)

        for i in range(self.sizes["layers"]):
            h = f"{LLAMA}.layers.{i}"

            def project(name: str, y: Tensor, h: str = h) -> Tensor:
                out = self.linear(f"{h}.attention.{name}", y)
                low = self.w[f"{h}.attention.{name}_lora_A"] @ self.w[f"{h}.attention.{name}_lora_B"]
                return out if scale is None else out + y @ low * scale

            y = self.rms_norm(f"{h}.attention_norm", x)
            q, k, v = (project(name, y).unflatten(1, (-1, 128)) for name in ("wq", "wk", "wv"))
            q, k, v = (part.transpose(0, 1) for part in (rotate(q), rotate(k), v))
            scores = q @ k.mT / 128**0.5 + torch.full((length, length), -torch.inf).triu(1)
            x = x + project("wo", (scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
            y = self.rms_norm(f"{h}.ffn_norm", x)
            gated = functional.silu(self.linear(f"{h}.feed_forward.w1", y)) * self.linear(f"{h}.feed_forward.w3", y)
            x = x + self.linear(f"{h}.feed_forward.w2", gated)
        return x
