"""Flash attention: masks are [batch, keys] padding or none. A stand-in computes what the kernels compute, on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import MANY, ONE, audio_model, batch, cache_lengths, error, greedy, strategy, strategy_names
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from fastadasp import ModelError
from fastadasp.upstream.names import cache_argument, cache_of

TOLERANCE = 1e-5
STAND_IN = "kernels-community/flash-stand-in"
calls: list[Any] = []


def stand_in(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float | None = None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention by its definition, with the arguments of transformers' flash functions; refuses what they refuse."""
    length, total = query.shape[2], key.shape[2]
    assert module.config._attn_implementation == STAND_IN  # the kernels are looked up by this name
    assert mask is None or (mask.dim() == 2 and mask.shape == (query.shape[0], total))
    positions = kwargs.get("position_ids")
    if mask is None and query.shape[0] == 1 and positions is not None and length > 1:  # gaps mean packed sequences
        steps = torch.arange(length) + positions.min()
        assert torch.equal(positions[0], steps), "taken for packed sequences"
    calls.append(mask)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    logits = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    rows = torch.arange(total - length, total).unsqueeze(1)
    hidden = torch.arange(total) > rows
    if mask is not None:
        hidden = hidden | ~mask.bool()[:, None, None]
    weights = logits.masked_fill(hidden, float("-inf")).softmax(-1).nan_to_num(0.0)  # a padding query gives zeros
    return (weights @ value).transpose(1, 2), None


AttentionInterface.register(STAND_IN, stand_in)
AttentionMaskInterface.register(STAND_IN, flash_attention_mask)


@pytest.fixture
def model() -> Iterator[Any]:
    """The tiny model; its decoder's attention is set by `use`."""
    made = audio_model()
    before = made.model.language_model.config._attn_implementation
    calls.clear()
    try:
        yield made
    finally:
        use(made, before)


def use(model: Any, implementation: str) -> Any:
    model.model.language_model.config._attn_implementation = implementation
    return model


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("name", [name for name in strategy_names() if not strategy(name).merger.across_heads])
def test_prompt_and_decoding_are_as_with_sdpa(model: Any, name: str, positions: str, side: str) -> None:
    recipe = strategy(name, positions=positions)
    for samples in ((ONE,), MANY):
        inputs, steps, layers = batch(*samples, side=side), [torch.full((len(samples),), 7 + i) for i in range(3)], []
        found = []
        for implementation in ("sdpa", STAND_IN):
            with recipe.apply(use(model, implementation)) as trace:
                found.append(greedy(model, inputs, 3, forced=steps))
            layers.append(trace.layers)
        assert layers[0] == layers[1]
        assert all(error(mine, theirs) <= TOLERANCE for theirs, mine in zip(*found, strict=True))
    assert {None if mask is None else mask.dim() for mask in calls} == {None, 2}


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in strategy_names() if strategy(name).merger.across_heads])
def test_masks_by_head_are_refused(model: Any, name: str) -> None:
    """Flash attention takes one mask for all heads: decoding after such an eviction is an error in words."""
    following = {"input_ids": torch.tensor([[7]]), "position_ids": torch.tensor([[len(ONE)]])}
    with strategy(name).apply(use(model, STAND_IN)):
        cache = cache_of(model(**batch(ONE), use_cache=True))
        with pytest.raises(ModelError, match=r"need a mask for each head, which .* does not take"):
            model(**following, **cache_argument(cache))


@torch.no_grad()
@pytest.mark.parametrize("name", ["weighted", "h2o", "weighted+h2o", "before"])
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_is_as_with_sdpa(model: Any, name: str, beams: int) -> None:
    for samples in ((ONE,), MANY):
        said = []
        for implementation in ("sdpa", STAND_IN):
            with strategy(name).apply(use(model, implementation)):
                said.append(model.generate(**batch(*samples), max_new_tokens=6, num_beams=beams))
        assert torch.equal(*said)
    assert calls


@torch.no_grad()
@pytest.mark.parametrize("name", ["weighted", "h2o", "before"])
def test_a_later_turn_is_as_with_sdpa(model: Any, name: str) -> None:
    first, found, held = batch(*MANY), [], []
    rest = torch.arange(2, 2 + 5 * len(MANY)).view(len(MANY), 5)
    mask = torch.nn.functional.pad(first["attention_mask"], (0, 5), value=1)
    for implementation in ("sdpa", STAND_IN):
        with strategy(name).apply(use(model, implementation)):
            cache = cache_of(model(**first, use_cache=True))
            places = first["attention_mask"].sum(1, keepdim=True) + torch.arange(5)
            out = model(input_ids=rest, attention_mask=mask, position_ids=places, **cache_argument(cache))
        found.append(out.logits)
        held.append(cache_lengths(cache_of(out)))
    assert held[0] == held[1]
    assert error(found[1], found[0]) <= TOLERANCE


def test_flex_is_refused_with_the_reason(model: Any) -> None:
    with (
        pytest.raises(ModelError, match="compiles a kernel for each length"),
        strategy("weighted").apply(use(model, "flex_attention")),
    ):
        pass


@pytest.mark.cuda
@torch.no_grad()
@pytest.mark.parametrize("implementation", ["flash_attention_2", "flash_attention_3"])
@pytest.mark.parametrize("name", ["weighted", "prune", "h2o"])
def test_the_kernels_themselves(name: str, implementation: str) -> None:
    pytest.importorskip(
        {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}[implementation]
    )
    model = audio_model("sdpa", torch.bfloat16).to("cuda")
    inputs = {key: value.to("cuda") for key, value in batch(*MANY).items()}
    found = []
    for attention in ("sdpa", implementation):
        with strategy(name).apply(use(model, attention)):
            found.append(greedy(model, inputs, 0)[0].float())
    assert error(found[1], found[0]) <= 0.05
