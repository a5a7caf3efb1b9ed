"""Caches that evict again over an answer of 240 tokens, against a plain loop over tokens and heads in float64.

The loop is written from the papers' rules and the decoder's published formula, and shares nothing with the engine. What
is kept, what comes out, and how much is held are compared after every round.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2Model

import fastadasp
from fastadasp.upstream.names import cache_argument, cache_of

PROMPT, STEPS, EVERY, LAYERS = 60, 240, 8, 2
HEADS, KV_HEADS, WIDTH, HEAD = 8, 2, 64, 8


@lru_cache
def model() -> Any:
    """Qwen2's way of sharing keys: four query heads each."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8,
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        initializer_range=0.3,
        attn_implementation="eager",
    )
    return Qwen2Model(config).eval().requires_grad_(False).double()


@lru_cache
def embeddings() -> Tensor:
    return torch.randn(1, PROMPT + STEPS, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def scores(name: str, keys: Tensor, last: Tensor, received: Tensor) -> Tensor:
    """How much each token that a head holds matters, [held].

    Args:
        keys: [held, HEAD].
        last: the attention of the last token, [HEADS, held].
        received: all the attention that each has received so far, from the head's queries.
    """
    if name == "streaming-llm":
        order = torch.arange(len(keys)).double()
        return torch.where(order < 4, 2 * len(keys) - order, order)
    if name == "knorm":
        return -keys.norm(dim=1)
    if name == "tova":
        mean = last.mean(0)
        mean[-1] = 2  # the last token itself stays
        return mean
    return received


def plain(name: str) -> tuple[Tensor, list[list[list[int]]]]:
    """Outputs of the prompt's last token and of each token after it, and the places kept at the end, by layer and
    head."""
    net, turns = model(), torch.arange(PROMPT + STEPS).double().unsqueeze(1)
    angle = turns * 10000.0 ** (-torch.arange(0, HEAD, 2).double() / HEAD)
    cos, sin = (torch.cat([part, part], 1) for part in (angle.cos(), angle.sin()))

    def turned(x: Tensor, places: slice) -> Tensor:
        half = torch.cat([-x[..., HEAD // 2 :], x[..., : HEAD // 2]], -1)
        return x * cos[places] + half * sin[places]

    def normed(x: Tensor, norm: Any) -> Tensor:
        return norm.weight * x / (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()

    kept = [[list[int]() for _ in range(KV_HEADS)] for _ in range(LAYERS)]
    held = [[torch.zeros(2, 0, HEAD).double() for _ in range(KV_HEADS)] for _ in range(LAYERS)]
    sums = [[torch.zeros(0).double() for _ in range(KV_HEADS)] for _ in range(LAYERS)]
    out, given = [], embeddings()[0]
    for step in range(STEPS + 1):
        places = slice(0, PROMPT) if step == 0 else slice(PROMPT + step - 1, PROMPT + step)
        x, total = given[places], places.stop
        due = step % EVERY == 0
        for index, layer in enumerate(net.layers):
            part, inside = layer.self_attn, normed(x, layer.input_layernorm)
            query, key, value = (
                (inside @ linear.weight.T + linear.bias).unflatten(1, (-1, HEAD)).transpose(0, 1)
                for linear in (part.q_proj, part.k_proj, part.v_proj)
            )
            query, key = turned(query, places), turned(key, places)
            weights, mixed = [], []
            for head in range(KV_HEADS):
                kept[index][head] += range(places.start, places.stop)
                new = torch.stack([key[head], value[head]])
                held[index][head] = torch.cat([held[index][head], new], 1)
                keys, values = held[index][head]
                own = query[4 * head : 4 * head + 4] @ keys.T / HEAD**0.5
                places_kept = torch.tensor(kept[index][head])
                own = own.masked_fill(places_kept > torch.arange(places.start, places.stop).unsqueeze(1), float("-inf"))
                weights.append(own.softmax(-1))
                mixed.append(weights[-1] @ values)
                old = torch.nn.functional.pad(sums[index][head], (0, len(x)))
                sums[index][head] = old + weights[-1].sum((0, 1))
            x = x + torch.cat(mixed).transpose(0, 1).flatten(1) @ part.o_proj.weight.T
            inside = normed(x, layer.post_attention_layernorm)
            gate = torch.nn.functional.silu(inside @ layer.mlp.gate_proj.weight.T) * (
                inside @ layer.mlp.up_proj.weight.T
            )
            x = x + gate @ layer.mlp.down_proj.weight.T
            if not due:
                continue
            last = torch.cat([one[:, -1] for one in weights]) if name == "tova" else x
            for head in range(KV_HEADS):
                of = scores(name, held[index][head][0], last, sums[index][head])
                stay = of.topk(int(total * 0.5 + 0.5)).indices.sort().values
                kept[index][head] = [kept[index][head][i] for i in stay.tolist()]
                held[index][head], sums[index][head] = held[index][head][:, stay], sums[index][head][stay]
        out.append(normed(x[-1], net.norm))
    return torch.stack(out), kept


def engine(name: str) -> tuple[Tensor, Any, list[int]]:
    """The same by the engine: outputs, the cache, and how many keys all layers held after each token."""
    method = fastadasp.load_strategy(
        name, **{"evicts": "any", "every": EVERY, "budget": 0.5, "layers.layer": 0, "positions": "original"}
    )
    spans = torch.ones(1, PROMPT, dtype=torch.int64)
    given, sizes = embeddings(), list[int]()
    with torch.no_grad(), method.apply(model(), spans=spans):
        out = model()(inputs_embeds=given[:, :PROMPT], use_cache=True)
        outputs = [out.last_hidden_state[0, -1]]
        for step in range(STEPS):
            here = slice(PROMPT + step, PROMPT + step + 1)
            position = torch.tensor([[PROMPT + step]])
            out = model()(
                inputs_embeds=given[:, here], position_ids=position, use_cache=True, **cache_argument(cache_of(out))
            )
            outputs.append(out.last_hidden_state[0, -1])
            sizes.append(sum(layer.keys.shape[2] for layer in cache_of(out).layers))
    return torch.stack(outputs), cache_of(out), sizes


@pytest.mark.parametrize("name", ["streaming-llm", "knorm", "tova", "h2o"])
def test_an_answer_of_240_tokens(name: str) -> None:
    """By place, by key, by the last query, and by attention added up."""
    theirs, kept = plain(name)
    ours, cache, sizes = engine(name)
    assert float((ours - theirs).norm(dim=1).max() / theirs.norm(dim=1).mean()) <= 1e-5
    with torch.no_grad():
        every = model()(inputs_embeds=embeddings(), use_cache=True).past_key_values.layers[0].keys[0]
    for head in range(KV_HEADS):
        distance = (cache.layers[0].keys[0, head].unsqueeze(1) - every[head]).norm(dim=-1)
        assert distance.argmin(1).tolist() == kept[0][head]
    for step, size in enumerate(sizes, 1):  # half of all tokens, and those since the last round
        rounds = step // EVERY * EVERY
        assert size == LAYERS * (int((PROMPT + rounds) * 0.5 + 0.5) + step - rounds)
